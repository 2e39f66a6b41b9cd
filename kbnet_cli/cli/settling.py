"""What a command goes by: click takes an option, else the variable, else the config file, and tells which it was."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import typer

from kbnet_cli.errors import SettingsError
from kbnet_cli.settings import (
    BY_VARIABLE,
    Config,
    Key,
    Origin,
    Setting,
    Settings,
    Survey,
    config_place,
    read_config,
    settle,
    sound,
)

if TYPE_CHECKING:
    from typer import Context as Context
else:
    # What commands are given is no typer.Context, whatever their types say, but of the class below it.
    Context = typer.Context.__base__

_CONFIG, _TROUBLE = "kbnet.config", "kbnet.trouble"


def configure(context: Context) -> None:
    """Read the config file and give each command its part of it, as the defaults of its options.

    A file that is broken is told by the commands that go by it, so that help and doctor work all the same.
    """
    place = config_place()
    context.meta[_CONFIG], context.meta[_TROUBLE] = place, None
    try:
        found = read_config(place)
    except SettingsError as trouble:
        context.meta[_TROUBLE] = trouble
    else:
        context.meta[_CONFIG] = found
        context.default_map = _defaults(context.command, found)


def _defaults(command: Any, config: Config) -> dict[str, Any]:
    """Return the defaults that a config file gives a command, or the commands of a group."""
    commands = getattr(command, "commands", None)
    if commands is not None:
        return {name: _defaults(one, config) for name, one in commands.items()}
    return {name: config.values[key.name] for name, key in _keys(command) if key.name in config.values}


def _keys(command: Any) -> Iterator[tuple[str, Key]]:
    """Give the options of a command that are settings: their variable says which one."""
    for parameter in command.params:
        if parameter.envvar in BY_VARIABLE:
            yield parameter.name, BY_VARIABLE[parameter.envvar]


def settled(context: Context) -> Settings:
    """Return what a command goes by.

    Raises:
        SettingsError: the config file is broken, or a value cannot be meant.
    """
    if context.meta[_TROUBLE] is not None:
        raise context.meta[_TROUBLE]
    return settle(_parts(context))


def _parts(context: Context) -> tuple[Setting, ...]:
    return tuple(
        Setting(key, context.params[name], _origin(context, name, key)) for name, key in _keys(context.command)
    )


def _origin(context: Context, name: str, key: Key) -> Origin:
    source = context.get_parameter_source(name)
    match source.name if source else "DEFAULT":
        case "COMMANDLINE":
            return Origin("option", key.option)
        case "ENVIRONMENT":
            return Origin("environment", key.variable)
        case "DEFAULT_MAP":
            return Origin("file", context.meta[_CONFIG].path.name)
        case _:
            return Origin("built in")


def surveyed(context: Context) -> Survey:
    """Return what a command goes by, and what each command would go by that is called without options."""
    own, troubles = sound(_parts(context))
    root = context.find_root()
    seen = {part.key.name: part for part in own}
    for name, command in getattr(root.command, "commands", {}).items():
        if not hasattr(command, "commands"):
            # Parsing that is told to be resilient asks for no arguments, and takes variables and defaults as always.
            with command.make_context(name, [], parent=root, resilient_parsing=True) as asked:
                more, worse = sound(_parts(asked))
            seen = {part.key.name: part for part in more} | seen
            troubles += worse
    told = {trouble.message: trouble for trouble in troubles}
    broken = context.meta[_TROUBLE]
    return Survey(
        settle(own), context.meta[_CONFIG], tuple(seen.values()), ((broken,) if broken else ()) + tuple(told.values())
    )
