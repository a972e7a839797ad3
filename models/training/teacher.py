"""What the scripts beside this one share: the teacher, DEIMv2-Femto as ONNX, and how far boxes [x, y, width, height] overlap."""


class Teacher:
    def __init__(self, file, categories, threads=0):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.network = onnxruntime.InferenceSession(str(file), options)
        self.categories = categories

    def look(self, picture):
        """Category, box within the picture, and score of all that is found."""
        import numpy as np
        from PIL import Image

        pixels = np.asarray(picture.resize((416, 416), Image.BILINEAR), np.float32).transpose(2, 0, 1)[None] / 255
        found = self.network.run(None, {"images": pixels, "orig_target_sizes": np.array([picture.size], np.int64)})
        for category, box, score in zip(*(output[0].tolist() for output in found)):
            left, top, right, bottom = (min(max(edge, 0), side) for edge, side in zip(box, picture.size * 2))
            yield self.categories[int(category)]["id"], [left, top, right - left, bottom - top], score


def shared(a, b):
    width, height = (min(a[i] + a[i + 2], b[i] + b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
    return max(width, 0) * max(height, 0)


def overlap(a, b):
    """Intersection over union."""
    return shared(a, b) / max(a[2] * a[3] + b[2] * b[3] - shared(a, b), 1e-9)
