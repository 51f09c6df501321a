# SwiftNet-RN18 with its authors' normalisation of pixels (orsic/swiftnet, rn18_single_scale.py).
_base_ = "./swiftnet_r18.py"

model = dict(
    data_preprocessor=dict(
        # For RGB values from 0 to 255.
        mean=[73.15, 82.90, 72.3],
        std=[47.67, 48.49, 47.73],
    ),
)
