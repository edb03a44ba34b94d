"""Students: the models that are trained and exported."""

from kdkeras.students.certificate import Certificate
from kdkeras.students.flops import forward_flops
from kdkeras.students.initialization import initialize_from_teacher
from kdkeras.students.least_squares import initialize_from_targets
from kdkeras.students.masked import MaskedTransformerStudent
from kdkeras.students.projection import (
    fit_projection,
    fold_projection,
    rotate_projection,
)
from kdkeras.students.sizes import SIZES, build_student
from kdkeras.students.static import StaticStudent
from kdkeras.students.student import Student
from kdkeras.students.transformer import TransformerStudent

__all__ = [
    "SIZES",
    "Certificate",
    "MaskedTransformerStudent",
    "StaticStudent",
    "Student",
    "TransformerStudent",
    "fit_projection",
    "fold_projection",
    "forward_flops",
    "build_student",
    "initialize_from_targets",
    "initialize_from_teacher",
    "rotate_projection",
]
