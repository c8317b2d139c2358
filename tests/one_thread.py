"""Sets one thread for torch, which reads it when it is imported: several tests run at once, each on its own core."""

import os

from layerdiffusion.threads import thread_variables

os.environ.update(thread_variables(1))
