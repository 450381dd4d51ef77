"""The embedded runner: gin -> data -> jit-compiled step on a mesh -> metrics -> checkpoints.

| file | holds |
|---|---|
| `loop.py` | `train`: one run, from the first batch to the last checkpoint |
| `starting.py` | checks before the first step, state to start from, greeting |
| `step.py` | the compiled training step |
| `data.py` | SeqIO mixture -> batches, with a position that is saved |
| `optimizers.py` | Optax chains and schedules that gin files bind |
| `evaluation.py` | accuracy during training, through SeqIO's evaluator |
| `metrics_log.py` | JSON Lines, TensorBoard, progress bar |
| `metrics_file.py` | the JSON Lines, read |
| `window.py` | the steps between two lines of metrics: means, spikes, NaN |
| `incidents.py` | batches worth a look, as text |
| `run_folder.py` | configuration, versions, devices and data beside the checkpoints |
| `config_changes.py` | what differs between a folder's configuration and a new one |
| `run_lock.py` | one run per folder |
| `stopping.py` | SIGTERM and SIGINT, in one process or several |
| `votes.py` | what processes tell each other without their devices |
| `meeting.py` | how processes find each other, and see that they are asked for the same |
| `batches.py`, `calls.py` | an input that may stall, and whatever else can't be interrupted |
| `stopwatch.py`, `run_time.py` | where the seconds go: in a start, and in a run's `time.json` |
| `planning.py`, `chips.py` | what a run needs on a mesh that need not be there |
| `gin_config.py` | gin files and `--gin.X=Y` as T5X reads them |

`step.py` imports no TensorFlow; so this table of contents imports nothing.
"""
