"""Triton kernels, installed as ``pyaccel.triton_kernels``: the portable GPU path."""

if __name__ == "triton_kernels":
    # An editable install puts the repository's root on sys.path; the bare name belongs to another project.
    raise ModuleNotFoundError("No module named 'triton_kernels'; this folder is pyaccel.triton_kernels")
