"""What came after or beside the four algorithms, each as a short diff from ``grpo.py``."""

from grpo_teach.algorithms import Algorithm, grpo
from grpo_teach.algorithms.later import cispo, gspo, maxrl, reinforce_pp, rloo, sapo
from grpo_teach.algorithms.later.cispo import CISPO
from grpo_teach.algorithms.later.dapo import DAPO
from grpo_teach.algorithms.later.dr_grpo import DrGRPO
from grpo_teach.algorithms.later.gspo import GSPO
from grpo_teach.algorithms.later.maxrl import MaxRL
from grpo_teach.algorithms.later.reinforce_pp import ReinforcePP
from grpo_teach.algorithms.later.rloo import RLOO
from grpo_teach.algorithms.later.sapo import SAPO

LATER = {
    "rloo": Algorithm("RLOO", RLOO, rloo.update, "#E69F00", "-."),
    "reinforce_pp": Algorithm("REINFORCE++", ReinforcePP, reinforce_pp.update, "#009E73", "--"),
    "dr_grpo": Algorithm("Dr. GRPO", DrGRPO, grpo.update, "#56B4E9", ":"),
    "dapo": Algorithm("DAPO", DAPO, grpo.update, "#D55E00", "-"),
    "gspo": Algorithm("GSPO", GSPO, gspo.update, "#CC79A7", "--"),
    "cispo": Algorithm("CISPO", CISPO, cispo.update, "#000000", "-."),
    "sapo": Algorithm("SAPO", SAPO, sapo.update, "#999999", ":"),
    "maxrl": Algorithm("MaxRL", MaxRL, maxrl.update, "#8B6914", (0, (5, 1))),
}
