"""From a recipe to a checkpoint: scenes, degradations, the loop."""
