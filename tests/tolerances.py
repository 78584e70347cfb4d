"""Every tolerance of the tests, relative in the 2-norm, each with the largest error measured when it was set."""

FLOAT64_ENGINES = 1e-9  # fast engine against reference: 1.2e-15 over all ConvNet variants and the MLP
FLOAT64_CLOSED_FORM = 1e-10  # closed-form cotangent against autograd: 2.8e-16
FLOAT32_ENGINES = 2e-5  # the same engines in float32, smooth activation: 4.9e-7
FLOAT32_TRAINING = 1e-4  # weights after a few epochs of SGD, torch engine against torch.optim: 3.8e-7
GOLDEN_RUN = 1e-3  # images after three iterations in float32, ReLU inputs near zero may change sign: 4.3e-7
