"""Gaussian noise by position: the Triton side of csrc/philox.h, which defines it and explains the polynomials."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def normals(seed, stream, first, COUNT: tl.constexpr):
    """The float32 normals of elements first..first + COUNT of a sample; four divides ``first`` and COUNT.

    ``seed`` and ``stream`` are int64 scalars. A thread calls Philox once for four neighbouring elements.
    """
    q = first // 4 + tl.arange(0, COUNT // 4)  # in 64 bits
    c0 = _low(q)
    zero = c0 * 0
    w0, w1, w2, w3 = tl.philox(seed, c0, _low(q >> 32), zero + _low(stream), zero + _low(stream >> 32))
    n0, n1 = _box_muller(w0, w1)
    n2, n3 = _box_muller(w2, w3)
    return tl.interleave(tl.interleave(n0, n2), tl.interleave(n1, n3))


@triton.jit
def _low(x):
    return (x & 0xFFFFFFFF).to(tl.uint32)


@triton.jit
def _box_muller(w0, w1):
    r = tl.sqrt_rn(_minus_two_log(w0.to(tl.float32) * 2.3283064365386963e-10 + 1.1641532182693481e-10))
    sine, cosine = _sincos_turns(w1.to(tl.float32) * 2.3283064365386963e-10)
    return r * cosine, r * sine


@triton.jit
def _minus_two_log(u):
    shifted = u.to(tl.uint32, bitcast=True) - 0x3F3504F3
    e = (shifted.to(tl.int32, bitcast=True) >> 23).to(tl.float32)
    f = ((shifted & 0x007FFFFF) + 0x3F3504F3).to(tl.float32, bitcast=True) - 1.0
    p = f * 0.0867215842 - 0.143789738
    p = p * f + 0.149779811
    p = p * f - 0.165644288
    p = p * f + 0.199548781
    p = p * f - 0.250017
    p = p * f + 0.333341658
    small = (f * p - 0.5) * (f * f) + e * -2.12194440e-4
    return -2.0 * ((f + small) + e * 0.693359375)


@triton.jit
def _sincos_turns(u):
    j = (u * 4.0 + 0.5).to(tl.int32)
    t = u - j.to(tl.float32) * 0.25
    z = t * t
    s = z * -75.24654 + 81.58829
    s = s * z - 41.34163
    s = s * z - 2.616836e-7
    sine = t * s + t * 6.28318548
    c = z * 58.54491 - 85.42292
    c = c * z + 64.93914
    c = c * z - 19.739208
    cosine = c * z + 1.0
    odd = (j & 1) != 0
    rising = tl.where(odd, cosine, sine)
    falling = tl.where(odd, sine, cosine)
    return tl.where((j & 2) != 0, -rising, rising), tl.where(((j + 1) & 2) != 0, -falling, falling)
