"""Rewards that a rule can check."""

__all__ = ["accuracy", "extract_answer"]


def extract_answer(completion: str) -> str:
    """What stands after the last ``</think>``, or the whole completion if there is none; outer space removed."""
    return completion.rsplit("</think>", 1)[-1].strip()


def accuracy(completion: str, answer: str) -> float:
    """1.0 if the completion's answer is exactly the given one, else 0.0.

    The whole answer is compared, not searched for: a substring match would reward listing every digit.

    Args:
        completion: the policy's text, thinking included.
        answer: the right answer.
    Returns:
        1.0 or 0.0.
    Source: DeepSeek-R1 (arXiv 2501.12948) section 2.2.2, accuracy reward; book Eq. (1.4).
    """
    return float(extract_answer(completion) == answer.strip())
