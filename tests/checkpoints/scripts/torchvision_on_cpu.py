"""Lets torchvision's Python parts import where its compiled operators cannot load.

The wheels of torchvision link against CUDA.  Beside a CPU build of torch the library does not load, and the import
then fails while it registers fake kernels for operators that nobody declared.  Declaring their schemas is enough: the
processors of Gemma 4 call none of them.
"""

import contextlib

import torch

_BOX = "Tensor input, Tensor rois, float spatial_scale, int pooled_height, int pooled_width"
_BOX_GRADIENT = (
    "Tensor grad, Tensor rois{extra}, float spatial_scale, int pooled_height, int pooled_width{middle}, "
    "int batch_size, int channels, int height, int width"
)
_SAMPLING = ", int sampling_ratio"
_ARGMAX, _MAPPING = ", Tensor argmax", ", Tensor channel_mapping"
_DEFORM = "Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias"
_DEFORM_NUMBERS = (
    "int stride_h, int stride_w, int pad_h, int pad_w, int dilation_h, int dilation_w, int groups, int offset_groups"
)
_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    f"roi_align({_BOX}{_SAMPLING}, bool aligned) -> Tensor",
    f"_roi_align_backward({_BOX_GRADIENT.format(extra='', middle='')}{_SAMPLING}, bool aligned) -> Tensor",
    f"roi_pool({_BOX}) -> (Tensor, Tensor)",
    f"_roi_pool_backward({_BOX_GRADIENT.format(extra=_ARGMAX, middle='')}) -> Tensor",
    f"ps_roi_align({_BOX}{_SAMPLING}) -> (Tensor, Tensor)",
    f"_ps_roi_align_backward({_BOX_GRADIENT.format(extra=_MAPPING, middle=_SAMPLING)}) -> Tensor",
    f"ps_roi_pool({_BOX}) -> (Tensor, Tensor)",
    f"_ps_roi_pool_backward({_BOX_GRADIENT.format(extra=_MAPPING, middle='')}) -> Tensor",
    f"deform_conv2d({_DEFORM}, {_DEFORM_NUMBERS}, bool use_mask) -> Tensor",
    f"_deform_conv2d_backward(Tensor grad, {_DEFORM}, {_DEFORM_NUMBERS}, bool use_mask) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)
_LIBRARY = torch.library.Library("torchvision", "FRAGMENT")


def declare_operators() -> None:
    """Declare torchvision's operators; one that a working build has already declared is left alone."""
    for schema in _SCHEMAS:
        with contextlib.suppress(RuntimeError):
            _LIBRARY.define(schema)


declare_operators()
