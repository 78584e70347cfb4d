"""Where datasets come from: names, folders of images, .npz, idx files."""
