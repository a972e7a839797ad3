//! The features that the frozen backbone, or the part of it that is frozen, makes of every view, computed once and kept on disk.
//!
//! A folder holds what one backbone makes of one list of pictures; its name is a hash of all that the features depend on. A view's
//! file holds each picture's features as f16, `[pictures, rows, columns, channels]` in little-endian order, and then a byte for
//! each picture: 1 where it could be decoded, 0 where its features are only zeros.

use super::close_up::Views;
use super::labels::{Labelled, Pictures};
use super::view;
use crate::backend::Backend;
use crate::checkpoint::Checkpoint;
use crate::config::Resize;
use crate::cpu::{self, Cpu};
use crate::error::{Error, Result};
use crate::eval::coco::dataset::turned;
use crate::hash::sha256;
use crate::image::{self, Picture, prepare};
use crate::model::Detr;
use crate::progress::Progress;
use crate::share;
use crate::train::trained::Trained;
use crate::weights::HostTensor;
use half::f16;
use memmap2::Mmap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// The features of all pictures in all views.
pub struct Features {
    /// One for each view.
    files: Vec<Mmap>,
    pictures: usize,
    /// Rows, columns and channels.
    shape: [usize; 3],
    views: Views,
    /// The pictures that could be decoded.
    usable: Vec<usize>,
    /// Names the others.
    pub problems: Vec<String>,
    /// Which pictures' labels have them turned, a sentence each; only of those that something was computed of now.
    pub turned: Vec<String>,
}

impl Features {
    /// Opens what is below `folder`, and computes on all cores what is missing there. The features are what the backbone's stage
    /// `stage` (counted from 0) is given, or after its last stage where there is no such stage. `progress` is told of every picture.
    pub fn open_or_build(
        folder: &Path,
        checkpoint: &Checkpoint,
        stage: usize,
        pictures: &Pictures,
        views: &Views,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let network = Backbone::load(checkpoint, stage)?;
        let shape = network.shape()?;
        let folder = folder.join(key(checkpoint, stage, pictures, views)?);
        fs::create_dir_all(&folder).map_err(|error| io(&folder, error))?;
        let paths: Vec<PathBuf> = (0..views.count).map(|number| folder.join(format!("view-{number:03}.f16"))).collect();
        let layout = Layout { pictures: pictures.list.len(), numbers: shape.iter().product() };

        let missing: Vec<usize> = (0..views.count).filter(|&number| !layout.fills(&paths[number])).collect();
        if !missing.is_empty() {
            progress.begin("features", missing.len() * layout.pictures);
        }
        let mut turned = Vec::new();
        for &number in &missing {
            turned.extend(build(&paths[number], &network, pictures, (views, number), layout, &|| progress.step())?);
        }
        turned.sort();
        turned.dedup();

        let files: Vec<Mmap> = paths.iter().map(|path| map(path, layout)).collect::<Result<_>>()?;
        let decoded = |&picture: &usize| files.iter().all(|file| file[layout.flag(picture)] == 1);
        let (usable, broken): (Vec<usize>, Vec<usize>) = (0..layout.pictures).partition(decoded);
        let problems = broken.into_iter().map(|picture| problem(pictures, &pictures.list[picture])).collect();
        Ok(Self { files, pictures: layout.pictures, shape, views: views.clone(), usable, problems, turned })
    }

    /// The features `[rows, columns, channels]` of a picture (its index in the list) in a view.
    pub fn get(&self, picture: usize, view: usize) -> Result<HostTensor> {
        let layout = Layout { pictures: self.pictures, numbers: self.shape.iter().product() };
        let file = self.files.get(view).filter(|_| picture < self.pictures).ok_or_else(|| {
            let [pictures, views] = [self.pictures, self.files.len()];
            Error::Config(format!("there are features of {pictures} pictures in {views} views, not of picture {picture} in view {view}"))
        })?;
        let (numbers, _) = file[layout.features(picture)].as_chunks::<2>();
        Ok(HostTensor::f32(&self.shape, numbers.iter().map(|&number| f16::from_le_bytes(number).to_f32()).collect()))
    }

    /// Pictures (by their index in the list) that could be decoded.
    pub fn usable(&self) -> &[usize] {
        &self.usable
    }

    /// Rows and columns of a picture's features.
    pub fn size(&self) -> [usize; 2] {
        [self.shape[0], self.shape[1]]
    }

    pub fn views(&self) -> &Views {
        &self.views
    }
}

/// Where things are in a view's file.
#[derive(Clone, Copy)]
struct Layout {
    pictures: usize,
    /// Of one picture's features.
    numbers: usize,
}

impl Layout {
    fn features(self, picture: usize) -> std::ops::Range<usize> {
        let bytes = self.numbers * size_of::<f16>();
        picture * bytes..(picture + 1) * bytes
    }

    fn flag(self, picture: usize) -> usize {
        self.features(self.pictures).start + picture
    }

    fn bytes(self) -> usize {
        self.flag(self.pictures)
    }

    /// Whether a file has the right size.
    fn fills(self, path: &Path) -> bool {
        path.metadata().is_ok_and(|metadata| metadata.len() == self.bytes() as u64)
    }
}

/// Height and width of all pictures of a network that can be trained.
pub fn one_size(resize: Resize) -> Result<[usize; 2]> {
    let Resize::Stretch { height, width } = resize else {
        let problem = "features can be kept only of pictures of one size, and this model keeps their shape: `--resize 480x640` (height and width) has them stretched; what is trained so may be given its own rule back (`detrim convert --resize 800:1333`)";
        return Err(Error::Config(problem.into()));
    };
    Ok([height, width])
}

/// The part of a network that is frozen, and the size of its pictures.
struct Backbone<'a> {
    checkpoint: &'a Checkpoint,
    network: Detr<Cpu>,
    /// The first stage that isn't part of it.
    stage: usize,
    size: [usize; 2],
}

impl<'a> Backbone<'a> {
    fn load(checkpoint: &'a Checkpoint, stage: usize) -> Result<Self> {
        let size = one_size(checkpoint.config.pixels.resize)?;
        Ok(Self { checkpoint, network: Detr::load(&Cpu, &checkpoint.config, &checkpoint.weights)?, stage, size })
    }

    /// `[1, height, width, 3]` → `[1, rows, columns, channels]`
    fn forward(&self, pixels: &HostTensor) -> Result<HostTensor> {
        cpu::to_host(&self.network.features_before(&Cpu, &Cpu.constant(pixels)?, self.checkpoint.config.backbone.first_block(self.stage))?)
    }

    fn shape(&self) -> Result<[usize; 3]> {
        let [height, width] = self.size;
        let features = self.forward(&HostTensor::f32(&[1, height, width, 3], vec![0.0; height * width * 3]))?;
        let shape = features.shape;
        <[usize; 3]>::try_from(shape.get(1..).unwrap_or_default())
            .map_err(|_| Error::Config(format!("the backbone's features have shape {shape:?} instead of [1, rows, columns, channels]")))
    }

    /// A view's features as they are stored.
    fn features(&self, picture: &Picture) -> Result<Vec<u8>> {
        let features = self.forward(&prepare(picture, &self.checkpoint.config.pixels)?)?;
        stored(&features.to_f32())
    }
}

/// As f16; what is too large for it becomes the largest number it has.
fn stored(numbers: &[f32]) -> Result<Vec<u8>> {
    if numbers.iter().any(|x| x.is_nan()) {
        return Err(Error::Output("the backbone's features hold what is not a number".into()));
    }
    let most = f16::MAX.to_f32();
    Ok(numbers.iter().flat_map(|x| f16::from_f32(x.clamp(-most, most)).to_le_bytes()).collect())
}

/// Computes one view of all pictures, and tells which pictures' labels have them turned. Until it is whole it has another name, under which a
/// later run goes on with it.
fn build(
    path: &Path,
    network: &Backbone,
    pictures: &Pictures,
    (views, number): (&Views, usize),
    layout: Layout,
    advance: &(dyn Fn() + Sync),
) -> Result<Vec<String>> {
    let part = path.with_extension("part");
    let fail = |error| io(&part, error);
    let file = File::options().read(true).write(true).create(true).truncate(false).open(&part).map_err(fail)?;
    // Another process may be at the same; when it is done, so are we.
    file.lock().map_err(fail)?;
    if layout.fills(path) {
        return Ok(Vec::new());
    }
    // What is never written is zeros.
    file.set_len(layout.bytes() as u64).map_err(fail)?;
    let mut decoded = vec![0; layout.pictures];
    (&file).seek(SeekFrom::Start(layout.flag(0) as u64)).and_then(|_| (&file).read_exact(&mut decoded)).map_err(fail)?;

    let (turn, lying) = (Mutex::new(&file), Mutex::new(Vec::new()));
    let write = |at: usize, bytes: &[u8]| -> Result<()> {
        let mut file = turn.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        file.seek(SeekFrom::Start(at as u64)).and_then(|_| file.write_all(bytes)).map_err(fail)
    };
    share::each(
        layout.pictures,
        || Ok(()),
        |_, index| {
            let picture = &pictures.list[index];
            // A broken picture is named when all is done.
            if decoded[index] == 0
                && let Ok(pixels) = image::open(&pictures.folder.join(&picture.file_name))
            {
                let problem = turned(&picture.file_name, picture.size.map(|side| side as f64), pixels.full_size);
                lying.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).extend(problem);
                write(layout.features(index).start, &network.features(&views.view(picture, number).apply(&pixels))?)?;
                write(layout.flag(index), &[1])?;
            }
            advance();
            Ok(())
        },
    )?;
    file.sync_all().map_err(fail)?;
    fs::rename(&part, path).map_err(fail)?;
    Ok(lying.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()))
}

fn map(path: &Path, layout: Layout) -> Result<Mmap> {
    let file = File::open(path).map_err(|error| io(path, error))?;
    // SAFETY: the file is never changed under this name (see `build`). What remains is somebody else rewriting it
    // in place, as with every program that maps its files.
    let map = unsafe { Mmap::map(&file) }.map_err(|error| io(path, error))?;
    match map.len() == layout.bytes() {
        true => Ok(map),
        false => Err(Error::Dataset { file: path.display().to_string(), problem: format!("has {} bytes instead of {}", map.len(), layout.bytes()) }),
    }
}

/// What is wrong with a picture that could not be decoded.
fn problem(pictures: &Pictures, picture: &Labelled) -> String {
    let path = pictures.folder.join(&picture.file_name);
    match image::open(&path) {
        Err(error) => error.to_string(),
        Ok(_) => format!("{}: could not be decoded when the features were computed", path.display()),
    }
}

/// A name for all that the features depend on.
fn key(checkpoint: &Checkpoint, stage: usize, pictures: &Pictures, views: &Views) -> Result<String> {
    let json = |value: serde_json::Result<Vec<u8>>| value.map_err(|error| Error::Config(error.to_string()));
    let mut all = json(serde_json::to_vec(&(view::VERSION, views.seed, &checkpoint.config.backbone, &checkpoint.config.pixels)))?;
    for picture in &pictures.list {
        all.extend(json(serde_json::to_vec(&(&picture.file_name, picture.bytes)))?);
        // Close-ups are of what the labels say is there.
        for target in picture.targets.iter().filter(|_| views.close_ups > 0.0) {
            all.extend(json(serde_json::to_vec(&(target.class, target.bounds, target.weight)))?);
        }
    }
    if views.close_ups > 0.0 {
        all.extend(json(serde_json::to_vec(&("close-ups", views.close_ups)))?);
    }
    // What comes after changes while it is trained.
    let backbone = &checkpoint.config.backbone;
    let later = Trained::with_stages(backbone, backbone.stages().saturating_sub(stage))?;
    if stage < backbone.stages() {
        all.extend(json(serde_json::to_vec(&("before stage", stage)))?);
    }
    for (name, tensor) in checkpoint.weights.tensors.iter().filter(|(name, _)| !later.includes(name)) {
        all.extend(name.as_bytes());
        all.extend(tensor.to_f32().iter().flat_map(|x| x.to_le_bytes()));
    }
    Ok(sha256(&all)[..16].into())
}

fn io(path: &Path, source: std::io::Error) -> Error {
    Error::Io { file: path.display().to_string(), source }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::config::{Backbone, Config, EfficientNetLite, InvertedResidual, Pixels};
    use crate::progress::Silent;
    use crate::progress::tests::Counted;
    use crate::train::Target;
    use crate::train::data::labels::Counts;

    fn checkpoint() -> Checkpoint {
        let block = InvertedResidual { expansion: Some(8), kernel: 3, stride: 2, channels: 6, residual: false };
        let mut config = Config::detr(Backbone::EfficientNetLite(EfficientNetLite { stem: 4, stages: vec![vec![block]] }));
        (config.d_model, config.queries) = (8, 2);
        config.encoder.clear();
        config.decoder.truncate(1);
        config.decoder[0].ffn = 4;
        config.pixels = Pixels { resize: Resize::Stretch { height: 16, width: 12 }, ..Pixels::detr() };
        crate::checkpoint::random(config, "tiny", 1)
    }

    /// Three pictures, of which `broken.png` can't be decoded.
    pub fn pictures(folder: &Path) -> Pictures {
        let mut list = Vec::new();
        for name in ["broken.png", "one.png", "two.png"] {
            let mut rgb = vec![0; 10 * 20 * 3];
            fastrand::Rng::with_seed(name.len() as u64 + list.len() as u64).fill(&mut rgb);
            let path = folder.join(name);
            match name {
                "broken.png" => fs::write(&path, "no picture").unwrap(),
                _ => ::image::save_buffer(&path, &rgb, 10, 20, ::image::ColorType::Rgb8).unwrap(),
            }
            let bytes = path.metadata().unwrap().len();
            list.push(Labelled { file_name: name.into(), bytes, size: [10, 20], targets: vec![], known: [].into() });
        }
        Pictures { folder: folder.into(), list, counts: Counts::default(), problems: vec![], notes: vec![], sureties: vec![] }
    }

    /// And how many pictures' features had to be computed.
    pub fn open(folder: &Path, views: usize) -> (Features, usize) {
        let counted = Counted::default();
        let pictures = pictures(folder);
        let features = Features::open_or_build(folder, &checkpoint(), 1, &pictures, &plain(views, &pictures), &counted).unwrap();
        (features, counted.done())
    }

    /// Views without close-ups.
    fn plain(count: usize, pictures: &Pictures) -> Views {
        Views::new(count, 5, 0.0, pictures)
    }

    fn views_below(folder: &Path) -> Vec<PathBuf> {
        let folders = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
        let mut files: Vec<PathBuf> = folders.flat_map(|folder| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path())).collect();
        files.sort();
        files
    }

    #[test]
    fn features_are_the_backbones() {
        let folder = tempfile::tempdir().unwrap();
        let (features, _) = open(folder.path(), 2);
        let checkpoint = checkpoint();
        let network = Detr::load(&Cpu, &checkpoint.config, &checkpoint.weights).unwrap();
        for (index, name) in [(1, "one.png"), (2, "two.png")] {
            let picture = image::open(&folder.path().join(name)).unwrap();
            for number in 0..2 {
                let pixels =
                    prepare(&features.views().view(&pictures(folder.path()).list[index], number).apply(&picture), &checkpoint.config.pixels).unwrap();
                let expected = cpu::to_host(&network.features(&Cpu, &Cpu.constant(&pixels).unwrap()).unwrap()).unwrap();
                let found = features.get(index, number).unwrap();
                assert_eq!(found.shape, expected.shape[1..]);
                for (found, expected) in found.to_f32().iter().zip(expected.to_f32().iter()) {
                    assert!((found - expected).abs() <= expected.abs() / 1024.0, "{found} instead of {expected}");
                }
            }
        }
        assert!(features.get(3, 0).is_err() && features.get(0, 2).is_err());
    }

    #[test]
    fn only_what_is_missing_is_computed() {
        let folder = tempfile::tempdir().unwrap();
        let (first, computed) = open(folder.path(), 2);
        assert_eq!(computed, 6);
        assert_eq!(open(folder.path(), 2).1, 0);
        let (more, computed) = open(folder.path(), 3);
        assert_eq!((computed, more.views().count), (3, 3));
        // Exactly as many views as are asked for.
        assert_eq!(open(folder.path(), 1).0.views().count, 1);
        let files = views_below(folder.path());
        assert_eq!(files.len(), 3);
        assert!(files[2].ends_with("view-002.f16"), "{files:?}");

        // Not truncated in place: it is mapped.
        let half = fs::read(&files[1]).unwrap()[..100].to_vec();
        fs::remove_file(&files[1]).unwrap();
        fs::write(&files[1], half).unwrap();
        let (again, computed) = open(folder.path(), 2);
        assert_eq!(computed, 3);
        assert_eq!(again.get(1, 1).unwrap(), first.get(1, 1).unwrap());
    }

    #[test]
    fn an_interrupted_view_is_gone_on_with() {
        let folder = tempfile::tempdir().unwrap();
        let (whole, _) = open(folder.path(), 2);
        let path = &views_below(folder.path())[1];
        let mut bytes = fs::read(path).unwrap();
        let numbers = whole.get(0, 0).unwrap().len();
        // The second picture is done (and can be told from what would be computed), the third isn't.
        let layout = Layout { pictures: 3, numbers };
        bytes[layout.features(1)].copy_from_slice(&f16::ONE.to_le_bytes().repeat(numbers));
        bytes[layout.features(2)].fill(0);
        bytes[layout.flag(2)] = 0;
        fs::remove_file(path).unwrap();
        fs::write(path.with_extension("part"), bytes).unwrap();
        let (again, _) = open(folder.path(), 2);
        assert_eq!(again.usable(), [1, 2]);
        assert!(again.get(1, 1).unwrap().to_f32().iter().all(|&x| x == 1.0));
        assert_eq!(again.get(2, 1).unwrap(), whole.get(2, 1).unwrap());
        assert_eq!(views_below(folder.path()).len(), 2);
    }

    #[test]
    fn a_broken_picture_is_named_and_not_used() {
        let folder = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            let (features, _) = open(folder.path(), 2);
            assert_eq!(features.usable(), [1, 2]);
            assert!(features.problems.len() == 1 && features.problems[0].contains("broken.png"), "{:?}", features.problems);
            assert!(features.get(0, 1).unwrap().to_f32().iter().all(|&x| x == 0.0));
        }
    }

    #[test]
    fn pictures_whose_labels_have_them_turned_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let mut pictures = pictures(folder.path());
        pictures.list[1].size = [20, 10];
        let features = Features::open_or_build(folder.path(), &checkpoint(), 1, &pictures, &plain(2, &pictures), &Silent).unwrap();
        assert_eq!(features.turned, ["one.png: the labels say 20×10, the picture is 10×20"]);
        assert_eq!(features.usable(), [1, 2]);
    }

    #[test]
    fn another_backbone_list_rule_or_seed_has_its_own_folder() {
        let folder = tempfile::tempdir().unwrap();
        let (checkpoint, pictures) = (checkpoint(), pictures(folder.path()));
        let plain = plain(2, &pictures);
        let base = key(&checkpoint, 1, &pictures, &plain).unwrap();
        assert_eq!(key(&checkpoint, 1, &pictures, &plain).unwrap(), base);
        let mut keys = vec![base.clone(), key(&checkpoint, 1, &pictures, &Views::new(2, 6, 0.0, &pictures)).unwrap()];
        let mut other = checkpoint.clone();
        other.weights.insert("backbone.stem.bias", HostTensor::f32(&[4], vec![1.0; 4]));
        keys.push(key(&other, 1, &pictures, &plain).unwrap());
        let mut other = checkpoint.clone();
        other.config.pixels.mean[1] = 0.25;
        keys.push(key(&other, 1, &pictures, &plain).unwrap());
        let mut fewer = pictures.clone();
        fewer.list.pop();
        keys.push(key(&checkpoint, 1, &fewer, &plain).unwrap());
        let mut changed = pictures.clone();
        changed.list[0].bytes += 1;
        keys.push(key(&checkpoint, 1, &changed, &plain).unwrap());
        // Close-ups are of what is labelled.
        let close = Views::new(2, 5, 0.5, &pictures);
        keys.push(key(&checkpoint, 1, &pictures, &close).unwrap());
        let mut labelled = pictures.clone();
        labelled.list[1].targets.push(Target { class: 0, bounds: [0.5; 4], weight: 1.0 });
        assert_eq!(key(&checkpoint, 1, &labelled, &plain).unwrap(), base);
        keys.push(key(&checkpoint, 1, &labelled, &close).unwrap());
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), 8);

        // Before a stage, which has a folder of its own: what comes later doesn't matter.
        let early = key(&checkpoint, 0, &pictures, &plain).unwrap();
        assert_ne!(early, base);
        let mut later = checkpoint.clone();
        later.weights.insert("backbone.stage0.block0.project.bias", HostTensor::f32(&[6], vec![1.0; 6]));
        assert_eq!(key(&later, 0, &pictures, &plain).unwrap(), early);
        assert_ne!(key(&later, 1, &pictures, &plain).unwrap(), base);
        later.weights.insert("backbone.stem.bias", HostTensor::f32(&[4], vec![1.0; 4]));
        assert_ne!(key(&later, 0, &pictures, &plain).unwrap(), early);

        // What comes after the backbone doesn't matter, nor does how numbers were stored.
        let mut same = checkpoint.clone();
        same.weights.insert("class_head.bias", HostTensor::f32(&[92], vec![1.0; 92]));
        assert_eq!(key(&same, 1, &pictures, &plain).unwrap(), base);
    }

    #[test]
    fn what_is_too_large_stays_finite() {
        let bytes = stored(&[1e9, -f32::INFINITY, 1.5, 65_519.0]).unwrap();
        let numbers: Vec<f32> = bytes.as_chunks::<2>().0.iter().map(|&b| f16::from_le_bytes(b).to_f32()).collect();
        assert_eq!(numbers, [65_504.0, -65_504.0, 1.5, 65_504.0]);
        assert!(stored(&[f32::NAN]).is_err());
    }

    #[test]
    fn pictures_of_many_sizes_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut checkpoint = checkpoint();
        checkpoint.config.pixels = Pixels::detr();
        let pictures = pictures(folder.path());
        let error = Features::open_or_build(folder.path(), &checkpoint, 1, &pictures, &plain(1, &pictures), &Silent).err().unwrap().to_string();
        assert!(error.contains("--resize 480x640"), "{error}");
    }
}
