"""What the parts of GRPO bias, summed exactly; dead groups; samplers that are not the trainer, and stale samples."""
