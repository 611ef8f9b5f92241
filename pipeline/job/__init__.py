"""What a recipe for `doppel run` may say, and the one complete plan that becomes of it before any work starts."""
