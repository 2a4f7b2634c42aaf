# The public names of flowcei: the one place where they stand.
from .check.agreement import repair as repair
from .check.file import check_file as check_file
from .check.measuring import measure_experiment as measure_experiment
from .check.run import check_run as check_run
from .evaluation.calibration import Calibration as Calibration
from .evaluation.calibration import calibrate as calibrate
from .evaluation.comparison import Comparison as Comparison
from .evaluation.comparison import compare as compare
from .evaluation.floor import information_floor as information_floor
from .evaluation.judgement import Judgement as Judgement
from .evaluation.judgement import judge as judge
from .evaluation.verdicts import CalibrationRules as CalibrationRules
from .events.container import Events as Events
from .events.simulation import simulate as simulate
from .events.storage import read_events as read_events
from .events.storage import write_events as write_events
from .experiment.drift import without_drift as without_drift
from .experiment.experiment import Experiment as Experiment
from .molecules.molecule import Molecule as Molecule
from .physics.build_up import BuildUp as BuildUp
from .physics.explosion import Coulomb as Coulomb
from .physics.explosion import asymptotic_momenta as asymptotic_momenta
from .physics.growth import ChargeTransfer as ChargeTransfer
from .physics.jacobian import momenta_jacobian as momenta_jacobian
from .physics.pair_potential import PairPotential as PairPotential
from .posterior.files import read_samples as read_samples
from .posterior.files import write_samples as write_samples
from .posterior.samples import PosteriorSamples as PosteriorSamples
from .reconstruction.fitting import train as train
from .reconstruction.loading import load as load
from .reconstruction.model import Reconstructor as Reconstructor
from .reconstruction.training_data import TrainingRules as TrainingRules
from .study.datasets import study_events as study_events
from .training.schedule import Schedule as Schedule

__version__: str
