//! Files that are given in place of a checkpoint: what each is, and what to do.

/// What a file is that can't be read as a checkpoint.
pub fn explain(bytes: &[u8]) -> String {
    const KNOWN: &str = "not a checkpoint that detrim knows (.safetensors, or .pth as PyTorch saves it)";
    let kind = if bytes.is_empty() { Some("the file is empty: was its download broken off?") } else { by_magic(bytes).or_else(|| by_text(bytes)) };
    match kind {
        Some(kind) => kind.into(),
        None => KNOWN.into(),
    }
}

fn by_magic(bytes: &[u8]) -> Option<&'static str> {
    let at = |place: usize, magic: &[u8]| bytes.get(place..).is_some_and(|rest| rest.starts_with(magic));
    Some(match () {
        () if at(0, b"\x89HDF\r\n\x1a\n") => {
            "a Keras or HDF5 file (.h5), which detrim doesn't read: it reads PyTorch's checkpoints (.safetensors, .pth)"
        }
        () if at(4, b"TFL3") => {
            "a TensorFlow Lite model, which detrim doesn't read: it reads the PyTorch checkpoint that it was made of (.safetensors, .pth)"
        }
        () if at(0, b"GGUF") => "a GGUF file of llama.cpp's, which detrim doesn't read: it reads PyTorch's checkpoints (.safetensors, .pth)",
        () if at(0, b"\x93NUMPY") => "an array of NumPy's (.npy), not a checkpoint",
        () if at(0, b"\x1f\x8b") => "a gzip archive: unpack it and give the checkpoint in it",
        () if at(0, b"\xfd7zXZ") || at(0, b"\x28\xb5\x2f\xfd") || at(0, b"BZh") => "a compressed file: unpack it and give the checkpoint in it",
        () if at(0, b"7z\xbc\xaf\x27\x1c") || at(0, b"Rar!") || at(257, b"ustar") => "an archive: unpack it and give the checkpoint in it",
        () if at(0, b"\xff\xd8\xff") || at(0, b"\x89PNG") || (at(0, b"RIFF") && at(8, b"WEBP")) => "a picture, not a checkpoint",
        () if is_onnx(bytes) => {
            "an ONNX model, which detrim doesn't read: it reads the PyTorch checkpoint that it was exported from (.safetensors, .pth)"
        }
        () => return None,
    })
}

/// ONNX has no magic number: a protobuf whose first field is the version of its format, followed by the producer's name or the graph.
fn is_onnx(bytes: &[u8]) -> bool {
    let [0x08, version, next, ..] = *bytes else { return false };
    (1..=20).contains(&version) && matches!(next, 0x12 | 0x1a | 0x22 | 0x2a | 0x32 | 0x3a | 0x42)
}

fn by_text(bytes: &[u8]) -> Option<&'static str> {
    const BEGINNING: usize = 1024;
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(BEGINNING)]).to_lowercase();
    let text = text.trim_start_matches(|c: char| c.is_whitespace() || c == '\u{feff}');
    Some(match () {
        () if text.starts_with("version https://git-lfs") => {
            "a pointer of Git LFS in place of the file: run `git lfs pull` in the repository's folder, or download the file itself"
        }
        () if text.starts_with("<!doctype html") || text.starts_with("<html") || text.starts_with("<head") => {
            "a web page, not a checkpoint: download the file itself (on Hugging Face an address with /resolve/ in place of /blob/)"
        }
        () if text.starts_with("entry not found")
            || text.starts_with("{\"error\"")
            || text.starts_with("access to model")
            || text.starts_with("invalid username") =>
        {
            "a server's refusal, not a checkpoint: the address or the access was wrong when it was downloaded"
        }
        () if text.starts_with("<?xml") => "an XML text, not a checkpoint (of OpenVINO? detrim reads the PyTorch checkpoint that it was made of)",
        () if text.starts_with('{') && text.contains("weight_map") => {
            "an index of shards: give it under a name that ends with .index.json, or the folder that it lies in"
        }
        () if text.starts_with('{') || text.starts_with('[') => "a JSON text, not weights: give the folder that it lies in, or the file of weights",
        () => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_checkpoint_is_called_by_its_name() {
        for (bytes, word) in [
            (&b""[..], "empty"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 166618694\n", "git lfs pull"),
            (b"\n<!DOCTYPE html><html>", "web page"),
            (b"Entry not found", "refusal"),
            (b"{\"error\": \"Repository not found\"}", "refusal"),
            (b"\x89HDF\r\n\x1a\n\x00", "Keras"),
            (b"\x08\x07\x12\x07pytorch\x1a\x052.1.0:", "ONNX"),
            (b"\x1c\x00\x00\x00TFL3", "TensorFlow Lite"),
            (b"GGUF\x03", "GGUF"),
            (b"\x1f\x8b\x08", "gzip"),
            (b"{\"metadata\": {}, \"weight_map\": {}}", "index of shards"),
            (b"{\"model_type\": \"detr\"}", "JSON"),
            (b"\xff\xd8\xff\xe0", "picture"),
            (b"something else", "not a checkpoint that detrim knows"),
        ] {
            assert!(explain(bytes).contains(word), "{word}: {}", explain(bytes));
        }
    }
}
