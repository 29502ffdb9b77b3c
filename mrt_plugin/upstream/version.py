r"""Which generation of TRL is installed. Only this package asks, and [`~mrt_plugin.open_r1`] by `FITS_OPEN_R1`."""

import trl
from packaging.version import Version


TRL_1 = Version(trl.__version__) >= Version("1.16")
if not TRL_1 and Version(trl.__version__).release[:2] != (0, 18):
    raise ImportError(
        f"mrt_plugin works with trl >= 1.16 and with trl 0.18, Open-R1's pin; this is {trl.__version__}."
    )

FITS_OPEN_R1 = not TRL_1
"""Whether this is the trl that Open-R1 pins."""
