"""Sets one thread for torch, which reads it when it is imported, whatever number the user's own variables give.

Several tests run at once, each on its own core; and some compare pixels, whose last bit a second thread can change.
"""

import os

from layerdiffusion.process import COUNTS, thread_variables

os.environ.update(thread_variables(1, {}) | {name: "1" for name in COUNTS if name in os.environ})
