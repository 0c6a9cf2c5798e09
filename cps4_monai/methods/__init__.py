"""Training methods: each one small file behind one seam."""

from __future__ import annotations

from cps4_monai.methods.attention_pretraining import AttentionPretraining
from cps4_monai.methods.base import SemiSupervisedMethod
from cps4_monai.methods.bcp import BCP
from cps4_monai.methods.cps4 import CPS4
from cps4_monai.methods.cps4_levers import CPS4Levers
from cps4_monai.methods.decoded import DecodedPseudoLabels
from cps4_monai.methods.dusss import DuSSS
from cps4_monai.methods.dusss_pretraining import DuSSSPretraining
from cps4_monai.methods.graphcl import GraphCL
from cps4_monai.methods.mc_net import MCNet
from cps4_monai.methods.mean_teacher import MeanTeacher
from cps4_monai.methods.mgca import MGCA
from cps4_monai.methods.prompted_pretraining import PromptedPretraining
from cps4_monai.methods.ss_net import SSNet
from cps4_monai.methods.supervised import Supervised
from cps4_monai.methods.teacher_student import TeacherStudent
from cps4_monai.methods.ucmt import UCMT
from cps4_monai.methods.ucmt_decoded import DecodedUCMT
from cps4_monai.methods.unimatch_v2 import UniMatchV2
from cps4_monai.methods.vessa import VESSA
from cps4_monai.methods.vessa_pretraining import VessaPretraining

__all__ = [
    "BCP",
    "CPS4",
    "MGCA",
    "UCMT",
    "VESSA",
    "AttentionPretraining",
    "CPS4Levers",
    "DecodedPseudoLabels",
    "DecodedUCMT",
    "DuSSS",
    "DuSSSPretraining",
    "GraphCL",
    "MCNet",
    "MeanTeacher",
    "PromptedPretraining",
    "SSNet",
    "SemiSupervisedMethod",
    "Supervised",
    "TeacherStudent",
    "UniMatchV2",
    "VessaPretraining",
]
