from resjax.studies.verdicts import LEARNED as LEARNED
from resjax.studies.verdicts import MAY_GO as MAY_GO
