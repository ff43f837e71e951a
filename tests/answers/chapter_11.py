"""Answers to chapter 11's loss as learners write them: right ones in many styles, wrong ones by diagnosis."""

import math

import torch
import torch.nn.functional as F
from torch.distributions import Categorical, kl_divergence

# distillation_loss -----------------------------------------------------------------------------------------------


def dl_plain(student_logits, teacher_logits, mask):
    log_p = teacher_logits.detach().log_softmax(dim=-1)
    log_q = student_logits.log_softmax(dim=-1)
    kl = (log_p.exp() * (log_p - log_q)).sum(dim=-1)
    return (kl * mask).sum() / mask.sum()


def dl_no_grad(student_logits, teacher_logits, mask):
    with torch.no_grad():
        p = F.softmax(teacher_logits, dim=-1)
        entropy = -torch.special.xlogy(p, p).sum(-1)
    cross = -(p * F.log_softmax(student_logits, dim=-1)).sum(-1)
    return (cross - entropy)[mask.bool()].mean()


def dl_kl_div(student_logits, teacher_logits, mask):
    q, p = student_logits.log_softmax(-1), teacher_logits.detach().softmax(-1)
    return (F.kl_div(q, p, reduction="none").sum(-1) * mask).sum() / mask.sum()


def dl_log_target(student_logits, teacher_logits, mask):
    real = mask.bool()
    q, p = student_logits[real].log_softmax(-1), teacher_logits[real].detach().log_softmax(-1)
    return F.kl_div(q, p, reduction="batchmean", log_target=True)  # a batch of real tokens


def dl_loops(student_logits, teacher_logits, mask):
    total, count = 0.0, 0
    for b in range(len(mask)):
        for t in range(mask.shape[1]):
            if mask[b, t] > 0:
                p = torch.softmax(teacher_logits[b, t].detach(), 0)
                q = torch.softmax(student_logits[b, t], 0)
                total, count = total + sum(p[v] * torch.log(p[v] / q[v]) for v in range(len(p))), count + 1
    return total / count


def dl_distributions(student_logits, teacher_logits, mask):
    kl = kl_divergence(Categorical(logits=teacher_logits.detach()), Categorical(logits=student_logits))
    return torch.where(mask > 0, kl, 0.0).sum() / mask.sum()


def dl_log_of_softmax(student_logits, teacher_logits, mask):
    p, q = teacher_logits.detach().softmax(-1), student_logits.softmax(-1)
    return ((p * (p.log() - q.log())).sum(-1) * mask).sum() / mask.sum()


def dl_logsumexp(student_logits, teacher_logits, mask):
    t, s, m = teacher_logits.detach().double(), student_logits.double(), mask.double()
    log_p, log_q = t - t.logsumexp(-1, keepdim=True), s - torch.logsumexp(s, -1, keepdim=True)
    return torch.einsum("btv,btv,bt->", log_p.exp(), log_p - log_q, m).div(m.sum()).reshape(1)


def dl_cross_entropies(student_logits, teacher_logits, mask):
    """Cross-entropy less entropy, by torch's own function with probabilities as the target."""
    p = teacher_logits.softmax(-1).data
    cross = F.cross_entropy(student_logits.transpose(1, 2), p.transpose(1, 2), reduction="none")
    own = F.cross_entropy(teacher_logits.transpose(1, 2), p.transpose(1, 2), reduction="none").detach()
    return torch.masked_select(cross - own, mask != 0).mean()


def dl_masked_logits(student_logits, teacher_logits, mask):
    """Padding is made to agree."""
    m = mask.unsqueeze(-1).float()
    p, q = (teacher_logits.detach() * m).log_softmax(-1), (student_logits * m).log_softmax(-1)
    return F.kl_div(q, p, reduction="sum", log_target=True) / mask.sum()


def dl_from(each, mean=lambda kl, m: (kl * m).sum() / m.sum()):
    """The common shape: something for each token, of the student's and the teacher's log-probs; and a mean."""

    def loss(student_logits, teacher_logits, mask):
        return mean(each(student_logits.log_softmax(-1), teacher_logits.detach().log_softmax(-1)), mask)

    return loss


def dl_kl(q, p):
    return (p.exp() * (p - q)).sum(-1)


def dl_ce(q, p):
    return -(p.exp() * q).sum(-1)


def dl_js(q, p):
    middle = torch.log((p.exp() + q.exp()) / 2)
    return 0.5 * (p.exp() * (p - middle)).sum(-1) + 0.5 * (q.exp() * (q - middle)).sum(-1)


def dl_w_torch(reduction, target="probabilities", first=F.log_softmax):
    """`F.kl_div` as it is called."""

    def loss(student_logits, teacher_logits, mask):
        t = teacher_logits.detach()
        p = {"probabilities": t.softmax(-1), "log-probs": t.log_softmax(-1), "logits": t}[target]
        each = F.kl_div(first(student_logits, -1), p, reduction=reduction)
        return (each.sum(-1) * mask).sum() / mask.sum() if reduction == "none" else each

    return loss


def dl_w_dim(dim):
    def loss(student_logits, teacher_logits, mask):
        p, q = F.log_softmax(teacher_logits.detach(), dim), F.log_softmax(student_logits, dim)
        return (dl_kl(q, p) * mask).sum() / mask.sum()

    return loss


def dl_w_temperature(tau, power):
    return lambda s, t, m: dl_plain(s / tau, t / tau, m) * tau**power


def dl_w_shift(student_logits, teacher_logits, mask):
    return dl_plain(student_logits[:, :-1], teacher_logits[:, :-1], mask[:, 1:])


def dl_w_attached(student_logits, teacher_logits, mask):
    p, q = teacher_logits.log_softmax(-1), student_logits.log_softmax(-1)
    return ((p.exp() * (p - q)).sum(-1) * mask).sum() / mask.sum()


RIGHT = {
    "distillation_loss": [
        *(dl_plain, dl_no_grad, dl_kl_div, dl_log_target, dl_loops, dl_distributions, dl_log_of_softmax, dl_logsumexp),
        *(dl_cross_entropies, dl_masked_logits),
    ],
}
WRONG = {
    "distillation_loss": {
        "teacher_learns": [dl_w_attached, lambda s, t, m: dl_w_attached(s, t * 1.0, m)],
        "teacher_learns_and_not_the_student": [lambda s, t, m: dl_w_attached(s.detach(), t, m)],
        "reverse": [
            *(
                lambda s, t, m: dl_plain(t.detach(), s, m).detach() + 0 * s.sum(),
                lambda s, t, m: dl_w_attached(t, s, m),
            ),
            lambda s, t, m: dl_w_attached(t.detach(), s, m),
            dl_from(lambda q, p: F.kl_div(p, q.exp(), reduction="none").sum(-1)),
            dl_from(lambda q, p: (q.exp().detach() * (q - p)).sum(-1)),
        ],
        "reverse_over_all_tokens": [dl_from(lambda q, p: dl_kl(p, q), lambda kl, m: kl.mean())],
        "reverse_mean_of_row_means": [
            dl_from(lambda q, p: dl_kl(p, q), lambda kl, m: ((kl * m).sum(1) / m.sum(1)).mean()),
        ],
        "reverse_batchmean": [
            lambda s, t, m: F.kl_div(t.detach().log_softmax(-1), s.softmax(-1), reduction="batchmean"),
        ],
        "cross_entropy": [
            *(dl_from(dl_ce), dl_from(lambda q, p: F.cross_entropy(q.mT, p.exp().mT, reduction="none"))),
            lambda s, t, m: (-(t.softmax(-1) * s.log_softmax(-1)).sum(-1) * m).sum() / m.sum(),
        ],
        "cross_entropy_over_all_tokens": [dl_from(dl_ce, lambda kl, m: kl.mean())],
        "cross_entropy_mean_of_row_means": [dl_from(dl_ce, lambda kl, m: ((kl * m).sum(1) / m.sum(1)).mean())],
        "cross_entropy_with_the_best_word": [
            dl_from(lambda q, p: F.cross_entropy(q.mT, p.argmax(-1), reduction="none")),
        ],
        "reverse_cross_entropy": [dl_from(lambda q, p: -(q.exp() * p).sum(-1))],
        "both_directions": [dl_from(lambda q, p: dl_kl(q, p) + dl_kl(p, q))],
        "mean_of_both_directions": [dl_from(lambda q, p: (dl_kl(q, p) + dl_kl(p, q)) / 2)],
        "to_the_middle": [dl_from(dl_js)],
        "forgot_mask": [dl_from(dl_kl, lambda kl, m: kl.mean())],
        "counts_padding": [dl_from(dl_kl, lambda kl, m: (kl * m).mean())],
        "masks_the_count_only": [dl_from(dl_kl, lambda kl, m: kl.sum() / m.sum())],
        "mean_of_row_means": [dl_from(dl_kl, lambda kl, m: ((kl * m).sum(1) / m.sum(1)).mean())],
        "sum_over_tokens": [dl_from(dl_kl, lambda kl, m: (kl * m).sum())],
        "sum_over_all_tokens": [dl_w_torch("sum")],
        "mean_over_rows": [dl_from(dl_kl, lambda kl, m: (kl * m).sum(1).mean())],
        "batchmean": [dl_w_torch("batchmean")],
        "mean_over_vocabulary": [dl_from(lambda q, p: (p.exp() * (p - q)).mean(-1))],
        "reduction_mean": [lambda s, t, m: dl_w_torch("sum")(s, t, m) / s.numel()],
        "masked_mean_over_everything": [
            dl_from(lambda q, p: p.exp() * (p - q), lambda kl, m: (kl * m[..., None]).mean())
        ],
        "not_reduced": [dl_from(dl_kl, lambda kl, m: kl * m)],
        "one_loss_a_row": [dl_from(dl_kl, lambda kl, m: (kl * m).sum(1) / m.sum(1))],
        "mask_upside_down": [dl_from(dl_kl, lambda kl, m: (kl * (m == 0)).sum() / (m == 0).sum())],
        "mask_upside_down_selected": [dl_from(dl_kl, lambda kl, m: kl[~m.bool()].mean())],
        "shifted": [dl_w_shift],
        "probabilities_for_log_probs": [dl_w_torch("none", first=F.softmax)],
        "logits_for_log_probs": [dl_w_torch("none", first=lambda s, dim: s)],
        "teacher_not_normalised": [
            lambda s, t, m: (
                ((t.softmax(-1) * (t - s.log_softmax(-1))).sum(-1).detach() * m).sum() / m.sum() + 0 * s.sum()
            ),
        ],
        "neither_normalised": [lambda s, t, m: ((t.softmax(-1) * (t - s)).sum(-1) * m).sum() / m.sum()],
        "exp_of_logits": [lambda s, t, m: ((t.detach().exp() * (t.detach() - s)).sum(-1) * m).sum() / m.sum()],
        "logits_as_weights": [lambda s, t, m: ((t.detach() * (t.detach() - s)).sum(-1) * m).sum() / m.sum()],
        "log_target_missing": [dl_w_torch("none", "log-probs")],
        "target_of_logits": [dl_w_torch("none", "logits")],
        "difference_of_probabilities": [dl_from(lambda q, p: (p.exp() * (p.exp() - q.exp())).sum(-1))],
        "not_weighed": [dl_from(lambda q, p: (p - q).sum(-1))],
        "weighed_with_log_probs": [dl_from(lambda q, p: (p * (p - q)).sum(-1))],
        "softmax_over_tokens": [dl_w_dim(1)],
        "softmax_over_rows": [dl_w_dim(0)],
        "squared_logits": [lambda s, t, m: ((s - t.detach()) ** 2).mean(-1)[m > 0].mean()],
        "squared_probabilities": [dl_from(lambda q, p: ((q.exp() - p.exp()) ** 2).sum(-1))],
        "base_two": [dl_from(lambda q, p: (p.exp() * (p - q) / math.log(2)).sum(-1))],
        "temperature_of_two": [dl_w_temperature(2.0, 0)],
        "temperature_of_two_squared": [dl_w_temperature(2.0, 2)],
        "entropy_of_the_student": [dl_from(lambda q, p: dl_ce(q, p) - dl_ce(q, q))],
        "sign_flipped": [dl_from(lambda q, p: (p.exp() * (q - p)).sum(-1))],
        "sign_flipped_and_more": [dl_from(lambda q, p: (p.exp() * q).sum(-1))],
        "constant_factor": [lambda s, t, m: dl_plain(s, t, m) / 2],
        "detached": [lambda s, t, m: dl_plain(s, t, m).item(), lambda s, t, m: dl_plain(s.detach(), t, m)],
        "not_finite": [lambda s, t, m: dl_plain(s, t, m) + 0 * (s.exp() / s.exp().sum(-1, keepdim=True)).log().sum()],
    },
}
