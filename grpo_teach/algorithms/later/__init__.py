"""What came after or beside the four algorithms, each as a short diff from ``grpo.py``."""
