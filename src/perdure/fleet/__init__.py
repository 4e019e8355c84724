"""Work on many canisters at once: campaigns of commands over sources, on processes here or on Ray's elsewhere.

`sources` finds what there is to do, `campaign` has it done by `workers` (processes) or `on_ray`, `journal` keeps what
came out, `report` tells it.
"""

from perdure.fleet.campaign import Campaign
from perdure.fleet.found import Found
from perdure.fleet.jobs import Job, Row
from perdure.fleet.journal import Journal
from perdure.fleet.report import Summary
from perdure.fleet.sources import expand
from perdure.fleet.workers import Processes, Workers

__all__ = ["Campaign", "Found", "Job", "Journal", "Processes", "Row", "Summary", "Workers", "expand"]
