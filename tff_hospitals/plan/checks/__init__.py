"""What a plan may not say, one file per subject; `plan.review` asks them all."""
