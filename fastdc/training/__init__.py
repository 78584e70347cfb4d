"""Networks trained the plain way, on images at hand: schedules, augmentation, sets too large to be held as float32."""
