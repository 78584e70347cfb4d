"""Every tolerance of the tests, each with the largest error measured when it was set.

Relative in the 2-norm (`helpers.relative`), but for those at the end.
"""

import torch

FLOAT64_ENGINES = (
    1e-9  # fast engine against reference: 1.2e-15 over all ConvNet variants and the MLP; ResNet, instance norm of 2x2: 1.1e-11
)
FLOAT64_CLOSED_FORM = 1e-10  # closed-form cotangent against autograd: 2.8e-16
FLOAT32_ENGINES = 2e-5  # the same engines in float32, smooth activation: 4.9e-7; images after whole runs: 2.2e-6
NATIVE_FLOAT64 = 1e-9  # native engine against reference, every case and job: 1.7e-14; images without contrast: 3.3e-13
NATIVE_FLOAT32_LOSS = 1e-5  # matching loss in float32 against reference in float64, smooth activation: 4.6e-8
NATIVE_FLOAT32_IMAGES = 1e-4  # its gradient by the images: 1.6e-6
NATIVE_TO_EAGER = 3  # error of float32 with kinks, in units of eager float32's; the median of nine; Winograd rounds more: 2.5
NATIVE_PULLED_BACK_TO_EAGER = 5  # the same for gradients of logits and features by images, mere chains of Winograd products: 3.5
NATIVE_FINITE_DIFFERENCES = 1e-6  # slopes of losses and class gradients against central differences: 4.3e-9
NATIVE_RUN = 1e-3  # images after three iterations in float32, native engine against torch: 4.9e-7; what a recipe has changed in two: 5.6e-6
NATIVE_INSTRUCTION_SETS = {torch.float64: 1e-9, torch.float32: 1e-4}  # one against another: 3.3e-15, 1.7e-6
NATIVE_BFLOAT16_PRODUCTS = 1e-5  # what the native engine makes of operands that are rounded, against torch's rounding: 1.2e-7
NATIVE_BFLOAT16 = (1e-4, 5e-2)  # every job, smooth activation, rounded, against float64: what rounding does and may do; 3.5e-2
# Image gradients and distance whose products are rounded, smooth activation: between what rounding does and what it may; 5.2e-7, 7.6e-4,
# 6.0e-3
PRECISION_ERROR = {"float32": (0.0, 2e-5), "tf32": (1e-4, 3e-3), "bfloat16": (1e-3, 3e-2)}
WINOGRAD_TO_CONVOLUTION = 5  # error of float32 by the cuda engine's Winograd, in units of a plain convolution's, every pass: 3.5
FLOAT32_TRAINING = 1e-4  # weights after a few epochs of SGD, torch engine against torch.optim: 3.8e-7
FLOAT32_STEPS = 1e-4  # way of the weights, and velocity, after 100 steps of SGD at lr 1e-3, any engine, against float64: 1.6e-5
WHOLE_SET_TRAINING = 1e-3  # change of the weights in five epochs of 600 images, any engine, against torch.optim: 5.7e-5
FLOAT64_STEP = 1e-12  # weights after one step of SGD with distillation against autograd: 4.7e-17
UNROLLED_FLOAT64 = 1e-9  # gradients through unrolled SGD against double backward: 7.5e-14
UNROLLED_FINITE_DIFFERENCES = 1e-6  # slopes against central differences, step 1e-4 or 1e-5: 1.4e-7
RECIPE_FLOAT64 = 1e-9  # change of what a recipe stores against a plain script, any engine: 9.4e-14; at rates near 1e-5: 2.4e-12
GOLDEN_RUN = 1e-3  # images after a few steps in float32, ReLU inputs near zero may change sign: 5.3e-6
GOLDEN_FILES = 1e-4  # change of the images in the four steps of a golden file, any engine and version of torch: 2.4e-6
# Distance or cotangent of that dtype, of any backend but the reference, against the definition in float64; cpp and triton agree.
DISTANCE = {
    torch.float64: 1e-11,  # 1.4e-13, rows of one element, whose cotangent is a difference of nearly equal numbers; distance 2.2e-15
    torch.float32: 2e-7,  # 5.2e-8: one rounding
    torch.float16: 1e-3,  # 3.9e-4: one rounding
    torch.bfloat16: 4e-3,  # 2.7e-3: one rounding
}
DISTANCE_BY_REFERENCE = {
    torch.float64: 1e-11,  # 1.4e-13
    torch.float32: 2e-4,  # 6.2e-5, rows of one element; distance 1.3e-5, rows of 25088 elements of 16 bits
    torch.float16: 1e-3,  # 3.9e-4
    torch.bfloat16: 4e-3,  # 2.7e-3
}
DISTANCE_INTERPRETED = {**DISTANCE, torch.bfloat16: 8e-3}  # Triton's interpreter rounds towards zero: 5.2e-3

# Of single numbers, absolute: they are of the size of 1.
NORMALISED = {torch.float64: 1e-12, torch.float32: 1e-6}  # images by their mean and deviation against numpy: 0, 2.2e-7
PIXELS = 1e-6  # pixels that were normalised, and back: 4.8e-8
STATISTICS_MEAN = 1e-13  # mean of all pixels against numpy or whole numbers, relative: 3.4e-16
STATISTICS_STD = 1e-12  # their deviation: 1.9e-16; of normalised images, which sum up rounding: 7.6e-14
PUBLISHED = 1e-4  # mean and deviation of FashionMNIST, published to four digits: 4.1e-5
KEPT_AS_FLOAT32 = 1e-6  # a number written to a file in float32, relative: 4.6e-8
GROWN = 1e-6  # logits of a network that has grown: 0
DISTILLED_LOGITS = 1e-5  # logits of a batch against those of its parts: 3.6e-7
ONE_UNIT_FLOAT32 = 2**-23  # one instruction set against another, relative: 0
EQUAL_GRADIENTS = 1e-5  # distance of equal gradients in float32, where the epsilon of the definition shows: 2.0e-6
MAPS_MEAN = 1e-5  # of a map after instance norm: 9.7e-8
MAPS_VARIANCE = 1e-2  # of the same, which the norm's epsilon makes smaller: 7.2e-5
AUGMENTED_POSITIONS = 1e-5  # pixels, or shares of a turn or scale: 2.4e-7
AUGMENTED_SHARES = 1e-12  # shares of soft labels against those of the pixels: 0
AUGMENTED_IMAGES = 1e-5  # crops and untouched images by interpolation: 4.3e-6
