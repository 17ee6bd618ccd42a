"""Layers that are swapped into a network so that it trains or predicts faster on a CPU, with the same results."""

from earsight.models.timm_import import import_timm

import_timm()  # before a layer's own module asks for parts of timm
