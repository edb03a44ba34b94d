"""Teachers: trained encoders whose embeddings a student learns."""

from kdkeras.teachers.loading import load
from kdkeras.teachers.teacher import Teacher

__all__ = ["Teacher", "load"]
