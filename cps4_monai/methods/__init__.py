"""Semi-supervised methods: each one small file behind one seam."""

from __future__ import annotations

from cps4_monai.methods.base import SemiSupervisedMethod
from cps4_monai.methods.cps4 import CPS4
from cps4_monai.methods.mean_teacher import MeanTeacher
from cps4_monai.methods.supervised import Supervised
from cps4_monai.methods.teacher_student import TeacherStudent

__all__ = ["CPS4", "MeanTeacher", "SemiSupervisedMethod", "Supervised", "TeacherStudent"]
