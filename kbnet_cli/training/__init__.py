"""From a recipe to a checkpoint: photos and generated scenes, degradations, the loop."""
