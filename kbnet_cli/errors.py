"""Everything a user can cause, as one tree of errors.

KBNetError                 message, hint, code, exit_code
├── UsageError             words of the command line that make no sense together (exit 2)
├── SettingsError          an option, a variable or the config file has a value that cannot be meant (exit 2)
├── WeightsError           a checkpoint that is missing, broken or of another network (exit 2)
│   └── FetchError         weights that cannot be had from an address now (exit 2)
├── DeviceError            a device or precision that is not there, or out of memory (exit 2)
│   └── LostDeviceError    a device that has worked and does not any more (exit 2)
└── PhotoError             one photo failed; the others are still done (exit 1)
    ├── InputError         missing, unreadable, not a picture, truncated
    ├── UnsupportedError   a picture that would lose something if it were written
    └── OutputError        exists, not writable, disk full

A message is one line in lower case that names the file and says what was got and what was expected; a hint is one
line that says how to go on. A class has a usual hint, for where nothing better is known.
"""


class KBNetError(Exception):
    """Tell a user what went wrong, with which file, and how to go on."""

    code = "error"
    exit_code = 1
    usual_hint = "run again with -v to see more"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint or self.usual_hint


class UsageError(KBNetError):
    """Say that the command line makes no sense."""

    code = "usage"
    exit_code = 2
    usual_hint = "see kbnet --help"


class SettingsError(KBNetError):
    """Say that a setting cannot be meant, whether from an option, a variable or the config file."""

    code = "settings"
    exit_code = 2
    usual_hint = "see Settings in the README, or run kbnet doctor"


class WeightsError(KBNetError):
    """Say that weights are missing, broken or of another network."""

    code = "weights"
    exit_code = 2
    usual_hint = "see which weights there are with kbnet weights list"


class FetchError(WeightsError):
    """Say that weights cannot be had from an address now: not there, no connection, no permission, no space."""

    code = "fetch"
    usual_hint = "try again later"


class DeviceError(KBNetError):
    """Say that a device or a precision is not there, or that its memory is full."""

    code = "device"
    exit_code = 2
    usual_hint = "use --device auto and --precision auto"


class LostDeviceError(DeviceError):
    """Say that a device has stopped working: nothing more can be asked of it in this process."""

    code = "lost_device"
    usual_hint = "run again, with --resume for a folder; if it comes again: --device cpu, and see what nvidia-smi says"


class PhotoError(KBNetError):
    """Say that one photo failed."""

    code = "photo"


class InputError(PhotoError):
    """Say that an input is missing, unreadable or no picture."""

    code = "input"
    usual_hint = "open it in another program, or copy it again from where it came"


class UnsupportedError(PhotoError):
    """Say that a picture holds what could not be written back."""

    code = "unsupported"
    usual_hint = "save it as PNG or TIFF in another program first"


class OutputError(PhotoError):
    """Say that an output exists or cannot be written."""

    code = "output"
    usual_hint = "check the folder, its permissions and the free space"
