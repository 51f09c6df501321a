"""Accuracy and fidelity against executed rate, for any clips, models and policies.

``python -m benchmarks.policies --model M --clip C --json OUT`` measures one clip,
``--plan FILE --data-root DIR`` many. Each model runs dense once over each clip, then block-sparsely
once for each policy and rate; an oracle, which knows the dense outputs beforehand, tells how far
there is to go. Policies are compared at the rates that they really executed, their first frame
included: by the curve through their points, read on a common grid of rates.

* *fidelity*: agreement with the dense outputs (AP50 against the dense detections, of all classes
  together; share of pixels with the dense label, and mean IoU against the dense labels).
* *accuracy*: AP50 or mean IoU against ground truth, where the clip has some.
* *area*: mean of a curve over the rates 0.1 to 0.7.

Results are written after every run; ``--resume`` goes on where a command was stopped.
"""
