"""SA-Solver (Xue et al. 2023, eq. 14 and 17), with the integrals of the Lagrange polynomials by quadrature."""

import math

import numpy as np

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(60)


def _integrals(lams, begin, end, rate):
    """∫ e^(rate·(lam − end)) l_i(lam) dlam over the step, for the Lagrange polynomials through ``lams``."""
    at = begin + 0.5 * (end - begin) * (_NODES + 1)
    result = []
    for i, own in enumerate(lams):
        basis = np.ones_like(at)
        for j, other in enumerate(lams):
            if j != i:
                basis = basis * (at - other) / (own - other)
        result.append(float(np.sum(_WEIGHTS * 0.5 * (end - begin) * np.exp(rate * (at - end)) * basis)))
    return result


def sa_solver(schedule, times, model, noise, draw, predictor, corrector, tau, variant, lower_order_final):
    """Algorithm 1; ``draw(s, t)`` is the noise of a step, ``tau(t)`` the stochasticity at its first time."""
    lam = [schedule.lam(t) for t in times]
    count = len(times) - 1
    x, outputs = schedule.sigma(times[0]) * noise, []

    def update(x, i, places, values, tau_i, xi):
        h, rate = lam[i + 1] - lam[i], 1 + tau_i**2
        weights = _integrals([lam[p] for p in places], lam[i], lam[i + 1], rate)
        if len(places) == 2 and variant == "few_steps":
            # The authors' change: the slope of the prediction enters with h²/2 in place of its exact integral.
            moment = (rate * h - 1 + math.exp(-rate * h)) / rate**2
            change = (h * h / 2 - moment) / (lam[places[0]] - lam[places[1]])
            weights = [weights[0] + change, weights[1] - change]
        ratio = schedule.sigma(times[i + 1]) / schedule.sigma(times[i])
        result = ratio * math.exp(-(tau_i**2) * h) * x
        for w, value in zip(weights, values, strict=True):
            result = result + rate * schedule.alpha(times[i + 1]) * w * value
        if tau_i and xi is not None:
            result = result + schedule.sigma(times[i + 1]) * math.sqrt(1 - math.exp(-2 * tau_i**2 * h)) * xi
        return result

    predicted, xi, tau_i = x, None, 0.0
    for i in range(count):
        m = model(predicted, times[i])
        if i and corrector:
            order = min(corrector, i + 1, count - i + 2 if lower_order_final else corrector)
            places = [i, *range(i - 1, i - order, -1)]
            x = update(x, i - 1, places, [m, *(outputs[p] for p in places[1:])], tau_i, xi)
        else:
            x = predicted
        outputs.append(m)
        tau_i = tau(times[i])
        xi = draw(times[i], times[i + 1]) if tau_i else None
        order = min(predictor, i + 1, count - i if lower_order_final else predictor)
        places = list(range(i, i - order, -1))
        predicted = update(x, i, places, [outputs[p] for p in places], tau_i, xi)
    return predicted
