"""DeepSeek-R1 in miniature: its stages, distillation from a larger policy, and search."""
