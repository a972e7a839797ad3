//! The wasm-bindgen surface: what `www/detrim/engine.js` calls. Everything above it (fetching, workers, falling back) is JavaScript's.

use crate::checkpoint::{self, Beside, Checkpoint, Guess};
use crate::config::Architecture;
use crate::detector::{self, Device};
use crate::error::Error;
use crate::eval::{self, profile::Profile};
use crate::forward::{self, Case, Runner};
use crate::hash;
use crate::image::Picture;
use js_sys::{Function, Uint8Array};
use serde::Serialize;
use std::cell::{Cell, RefCell};
use wasm_bindgen::{Clamped, prelude::*};

#[wasm_bindgen(typescript_custom_section)]
const TYPES: &str = r#"
export interface Card { model: string, labels: string[], threshold: number }
export interface Detections {
  detections: { query: number, class: number, id: number, label: string, score: number,
    bounds: { xmin: number, ymin: number, xmax: number, ymax: number } }[];
  times: { pre: number, network: number, post: number, parts?: { backbone: number, encoder: number, decoder: number, heads: number } };
  width: number;
  height: number;
}
export interface AttentionMaps { heads: number, rows: number, columns: number, weights: number[] }
export interface DeviceInfo { device: "cpu" | "gpu", adapter: string, weights_bytes: number, activation_bytes?: number | null, dispatches: number }
export interface Report { info: DeviceInfo, size: [number, number], runs: number, stages: { name: string, median: number, fastest: number }[] }
"#;

thread_local! {
    static ON_PANIC: RefCell<Option<Function>> = const { RefCell::new(None) };
}

/// Calls `callback` with the message of every panic, a line. The instance can't be used after one.
#[wasm_bindgen(js_name = onPanic)]
pub fn on_panic(#[wasm_bindgen(unchecked_param_type = "(message: string) => void")] callback: Function) {
    ON_PANIC.set(Some(callback));
    std::panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().and_then(|text| text.lines().next()).unwrap_or("panic");
        let place = panic.location().map(|place| (place.file().rsplit('/').next().unwrap_or_default(), place.line()));
        let (file, line) = place.unwrap_or_default();
        // Whatever the callback does, the panic goes on to the trap.
        ON_PANIC.with_borrow(|callback| callback.as_ref().map(|f| f.call1(&JsValue::NULL, &format!("{message} ({file}:{line})").into())));
    }));
}

/// A model's file, read.
#[wasm_bindgen]
pub struct Model(Checkpoint<Architecture>);

#[wasm_bindgen]
impl Model {
    /// Our own file, or the files of a checkpoint's weights and what lies beside them: `config.json` and `preprocessor_config.json`. `name`
    /// is for messages; `sha256` is what each file must hash to, in hexadecimal, or nothing.
    #[wasm_bindgen(constructor)]
    pub fn new(
        weights: Vec<Uint8Array>,
        config: Option<String>,
        preprocessor: Option<String>,
        name: &str,
        sha256: Option<Vec<String>>,
    ) -> Result<Model, JsValue> {
        let weights: Vec<Vec<u8>> = weights.iter().map(Uint8Array::to_vec).collect();
        if let Some(expected) = sha256 {
            check_hashes(&weights, &expected)?;
        }
        let files: Vec<&[u8]> = weights.iter().map(Vec::as_slice).collect();
        let beside = Beside { config, preprocessor };
        Ok(Self(checkpoint::import(&files, &beside, name, &Guess::default()).map_err(fail)?))
    }

    #[wasm_bindgen(unchecked_return_type = "Card")]
    pub fn card(&self) -> Result<JsValue, JsValue> {
        #[derive(Serialize)]
        struct Summary<'a> {
            model: &'a str,
            labels: Vec<&'a str>,
            threshold: f64,
        }
        let Checkpoint { config, card, .. } = &self.0;
        let labels = config.labels().iter().map(|label| label.name.as_str()).collect();
        // To JavaScript 0.4 in f32 is 0.4000000059604645.
        let threshold = (f64::from(self.0.threshold()) * 1e6).round() / 1e6;
        to_js(&Summary { model: &card.name, labels, threshold })
    }
}

impl Model {
    /// A copy of a DETR, for what works on that architecture only.
    fn detr(&self) -> Result<Checkpoint, JsValue> {
        self.0.clone().into_detr("this").map_err(fail)
    }
}

fn check_hashes(files: &[Vec<u8>], expected: &[String]) -> Result<(), JsValue> {
    if files.len() != expected.len() {
        return Err(js_error("argument", &format!("the model has {} files, and {} sha256 were given", files.len(), expected.len())));
    }
    for (bytes, expected) in files.iter().zip(expected) {
        let found = hash::sha256(bytes);
        if !found.eq_ignore_ascii_case(expected) {
            return Err(js_error("checksum", &format!("the model's sha256 is {found}, not {expected}")));
        }
    }
    Ok(())
}

/// A network that is ready to run.
///
/// JavaScript may ask for `info` while a detection waits for the GPU, so that nothing is borrowed over an `await`: the detector is
/// taken out for its run, and what it tells of itself is kept beside it.
#[wasm_bindgen]
pub struct Detector {
    idle: Cell<Option<detector::Detector>>,
    info: RefCell<detector::Info>,
}

#[wasm_bindgen]
impl Detector {
    pub async fn load(model: &Model, gpu: bool) -> Result<Detector, JsValue> {
        let detector = detector::Detector::load(&model.0, device(gpu)).await.map_err(fail)?;
        let info = detector.info().into();
        Ok(Self { idle: Some(detector).into(), info })
    }

    /// Detections in RGBA pixels whose score is at least `threshold`, the best first. One at a time.
    #[wasm_bindgen(unchecked_return_type = "Detections")]
    pub async fn detect(&self, rgba: Clamped<Vec<u8>>, width: usize, height: usize, threshold: f32) -> Result<JsValue, JsValue> {
        let picture = Picture::new(width, height, rgba.0).map_err(fail)?;
        let Some(mut detector) = self.idle.take() else { return Err(js_error("argument", "the detector is at another picture")) };
        let found = detector.detect(&picture, threshold).await;
        self.info.replace(detector.info());
        self.idle.set(Some(detector));
        to_js(&found.map_err(fail)?)
    }

    #[wasm_bindgen(unchecked_return_type = "DeviceInfo")]
    pub fn info(&self) -> Result<JsValue, JsValue> {
        to_js(&*self.info.borrow())
    }
}

/// A network of its own, on the CPU, that shows where its queries look.
#[wasm_bindgen]
pub struct Attention(detector::Attention);

#[wasm_bindgen]
impl Attention {
    #[wasm_bindgen(constructor)]
    pub fn new(model: &Model) -> Result<Attention, JsValue> {
        Ok(Self(detector::Attention::load(&model.0).map_err(fail)?))
    }

    /// Where a query looked in RGBA pixels; another query of the last picture takes no time.
    #[wasm_bindgen(unchecked_return_type = "AttentionMaps")]
    pub fn maps(&mut self, rgba: Clamped<Vec<u8>>, width: usize, height: usize, query: usize) -> Result<JsValue, JsValue> {
        let queries = self.0.queries();
        if query >= queries {
            return Err(js_error("argument", &format!("there is no query {query}: the model has {queries}")));
        }
        let picture = Picture::new(width, height, rgba.0).map_err(fail)?;
        to_js(&self.0.maps(&picture, query).map_err(fail)?)
    }
}

/// How long each stage takes on a made-up photo; with `height` and `width` as the network's input size. Needs the memory of a detector of its own.
#[wasm_bindgen(unchecked_return_type = "Report")]
pub async fn bench(model: &Model, gpu: bool, runs: usize, height: Option<usize>, width: Option<usize>) -> Result<JsValue, JsValue> {
    to_js(&eval::bench::bench(&model.0, device(gpu), runs, height.zip(width).map(|(height, width)| [height, width])).await.map_err(fail)?)
}

/// What `detrim bench --profile` writes, measured here: JSON. Takes about a minute, and the memory of a detector of its own.
#[wasm_bindgen]
pub async fn profile(model: &Model, gpu: bool, height: Option<usize>, width: Option<usize>) -> Result<String, JsValue> {
    let size = height.zip(width).map(|(height, width)| [height, width]);
    let profile = Profile::measure(&model.detr()?, device(gpu), size, &mut |_, _, _| ()).await.map_err(fail)?;
    serde_json::to_string(&profile).map_err(|error| js_error("crashed", &error.to_string()))
}

/// What every stage of the network makes of a case, both as safetensors.
#[wasm_bindgen]
pub async fn forward(model: &Model, gpu: bool, case: Vec<u8>) -> Result<Vec<u8>, JsValue> {
    let case = Case::read(&case, "the case").map_err(fail)?;
    let mut runner = Runner::load(&model.0, device(gpu)).await.map_err(fail)?;
    forward::to_bytes(&runner.run(&case).await.map_err(fail)?).map_err(fail)
}

fn device(gpu: bool) -> Device {
    if gpu { Device::Gpu } else { Device::Cpu }
}

fn to_js(value: &impl Serialize) -> Result<JsValue, JsValue> {
    serde_wasm_bindgen::to_value(value).map_err(JsValue::from)
}

fn fail(error: Error) -> JsValue {
    let code = match &error {
        Error::Image(_) | Error::Case { .. } => "source",
        Error::Gpu(_) => "gpu",
        Error::Cpu(_) => "crashed",
        _ => "model",
    };
    js_error(code, &error.to_string())
}

/// A JavaScript error with a code, as the package's own have.
fn js_error(code: &str, message: &str) -> JsValue {
    let error = js_sys::Error::new(message);
    // Setting a property of a fresh object can't fail.
    let _ = js_sys::Reflect::set(&error, &"code".into(), &code.into());
    error.into()
}
