//! What is stated about a network beside its tensors: by `config.json` and `preprocessor_config.json`, as Hugging Face saves them, and by the
//! options of the program that trained it.

use super::preprocessor::Preprocessor;
use super::{Contents, Least, origin};
use crate::checkpoint::{Beside, ClassNames, Guess};
use crate::config::{ModelType, Pixels, Resize};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// The networks that other projects' checkpoints are read into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Detr,
    RtDetr(ModelType),
}

impl Family {
    fn all() -> impl Iterator<Item = Self> + Clone {
        std::iter::once(Self::Detr).chain(ModelType::ALL.into_iter().map(Self::RtDetr))
    }

    /// What transformers calls it (`model_type`).
    fn model_type(self) -> &'static str {
        match self {
            Self::Detr => "detr",
            Self::RtDetr(kind) => kind.name(),
        }
    }

    /// What its classes in transformers begin with (`architectures`).
    fn class(self) -> &'static str {
        match self {
            Self::Detr => "Detr",
            Self::RtDetr(ModelType::RtDetr) => "RTDetr",
            Self::RtDetr(ModelType::RtDetrV2) => "RTDetrV2",
            Self::RtDetr(ModelType::DFine) => "DFine",
            Self::RtDetr(ModelType::Deimv2) => "Deimv2",
        }
    }
}

/// transformers' types of backbones alone.
const BACKBONES: [&str; 3] = ["resnet", "timm_backbone", "timm_wrapper"];

/// Everything that is stated.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// `config.json`.
    pub config: Option<Map<String, Value>>,
    pub preprocessor: Option<Preprocessor>,
    /// What the training program was started with, from a `.pth`.
    pub options: Map<String, Value>,
}

impl Evidence {
    pub fn new(contents: &Contents, beside: &Beside) -> Result<Self, String> {
        let config = beside.config.as_deref().map(|text| -> Result<Map<String, Value>, String> {
            let value = serde_json::from_str(text.trim_start_matches('\u{feff}')).map_err(|error| format!("config.json: {error}"))?;
            match value {
                Value::Object(entries) => Ok(entries),
                _ => Err("config.json: a JSON object was expected".into()),
            }
        });
        let preprocessor = beside.preprocessor.as_deref().map(Preprocessor::parse).transpose();
        let preprocessor = preprocessor.map_err(|problem| format!("preprocessor_config.json: {problem}"))?;
        Ok(Self { config: config.transpose()?, preprocessor, options: contents.options.clone() })
    }

    /// The architecture that `config.json` names; without it, the one whose names the tensors have.
    pub fn family(&self, least: Least) -> Result<Family, String> {
        let text = |key: &str| self.config.as_ref()?.get(key)?.as_str();
        let class = self.config.as_ref().and_then(|config| config.get("architectures")?.get(0)?.as_str());
        let known = Family::all().map(Family::model_type).collect::<Vec<_>>().join(", ");
        if let Some(kind) = text("model_type") {
            if let Some(found) = Family::all().find(|known| known.model_type() == kind) {
                return Ok(found);
            }
            if least == Least::Backbone && BACKBONES.contains(&kind) {
                return Ok(Family::Detr);
            }
            let class = class.map(|class| format!(" ({})", origin::shown(class))).unwrap_or_default();
            return Err(format!("config.json is about a model of type {}{class}; detrim reads {known}", origin::shown(kind)));
        }
        match class {
            Some(class) => {
                let found =
                    Family::all().find(|known| class.strip_prefix(known.class()).is_some_and(|rest| rest.starts_with("For") || rest == "Model"));
                found.ok_or_else(|| format!("config.json is about a {}; detrim reads {known}", origin::shown(class)))
            }
            None => Ok(Family::Detr),
        }
    }

    /// `config.json` as an architecture has it.
    pub fn config<T: DeserializeOwned>(&self) -> Result<Option<T>, String> {
        let Some(config) = &self.config else { return Ok(None) };
        let read = |entries: Map<String, Value>| serde_json::from_value::<T>(Value::Object(entries));
        let explain = |error: serde_json::Error| {
            // The error has no name: it is that of the entry that fails alone, too.
            let fails = |(key, value): &(&String, &Value)| read(Map::from_iter([((*key).clone(), (*value).clone())])).is_err();
            let key = config.iter().find(fails).map(|(key, _)| format!("{key}: ")).unwrap_or_default();
            format!("config.json: {key}{error}")
        };
        read(config.clone()).map(Some).map_err(explain)
    }

    /// The names of so many classes, if a file has them; those of the caller go before.
    pub fn class_names(&self, guess: &Guess, classes: usize) -> Result<Option<ClassNames>, String> {
        if let Some(names) = &guess.class_names {
            return Ok(Some(names.clone()));
        }
        if let Some(config) = &self.config {
            for key in ["id2label", "label2id"] {
                let Some(value) = config.get(key).filter(|value| !value.is_null() && value.as_object().is_none_or(|map| !map.is_empty())) else {
                    continue;
                };
                let names = ClassNames::from_json(value, &format!("config.json's {key}"))?;
                if !names.are_placeholders() {
                    return Ok(Some(names));
                }
            }
        }
        // Options have many lists: only one that fits is believed.
        let stated =
            ["class_names", "classes", "CLASSES", "names", "id2label", "label_names"].iter().filter_map(|key| Some((*key, self.options.get(*key)?)));
        let mut fitting = stated.filter_map(|(key, value)| ClassNames::from_json(value, &format!("the file's {key}")).ok());
        Ok(fitting.find(|names| names.fit(classes) && !names.are_placeholders()))
    }

    /// How pictures go in: as the caller says, as `stated` (by our own entry of `config.json`), as the preprocessor says, else as `default`,
    /// with a note; `whose` is where its size and its normalisation come from.
    pub fn pixels(
        &self,
        guess: &Guess,
        stated: Option<(Resize, [f32; 3], [f32; 3])>,
        default: Pixels,
        whose: [&str; 2],
        notes: &mut Vec<String>,
    ) -> Result<Pixels, String> {
        let fail = |problem: String| format!("preprocessor_config.json: {problem}");
        let theirs = self.preprocessor.as_ref().filter(|_| stated.is_none());
        theirs.map(Preprocessor::check).transpose().map_err(fail)?;
        let resize = match (guess.resize, stated, theirs) {
            (Some(resize), ..) => Some(resize),
            (None, Some((resize, ..)), _) => Some(resize),
            (None, None, Some(theirs)) => theirs.resize().map_err(fail)?,
            (None, None, None) => None,
        };
        let normalisation = match (stated, theirs) {
            (Some((_, mean, std)), _) => Some((guess.mean.unwrap_or(mean), guess.std.unwrap_or(std))),
            (None, Some(theirs)) => theirs.normalisation(guess.mean, guess.std).map_err(fail)?,
            (None, None) => None,
        };
        let resize = resize.unwrap_or_else(|| {
            notes.push(format!("pictures are resized to: {} ({}; --resize says otherwise)", default.resize, whose[0]));
            default.resize
        });
        let (mean, std) = normalisation.unwrap_or_else(|| {
            if guess.mean.is_none() || guess.std.is_none() {
                let how = if default.mean == [0.0; 3] && default.std == [1.0; 3] {
                    "divided by 255 only"
                } else {
                    "normalised by ImageNet's mean and deviation"
                };
                notes.push(format!("pixels are {how} ({}; --mean and --std say otherwise)", whose[1]));
            }
            (guess.mean.unwrap_or(default.mean), guess.std.unwrap_or(default.std))
        });
        Ok(Pixels { mean, std, resize })
    }

    /// Height and width that the preprocessor fills pictures up to.
    pub fn padding(&self) -> Result<Option<[usize; 2]>, String> {
        let padding = self.preprocessor.as_ref().map(Preprocessor::padding).transpose();
        padding.map(Option::flatten).map_err(|problem| format!("preprocessor_config.json: {problem}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(config: &str) -> Evidence {
        let beside = Beside { config: Some(config.into()), preprocessor: None };
        Evidence::new(&Contents::default(), &beside).unwrap()
    }

    #[test]
    fn an_unknown_model_type_is_named_with_what_is_known() {
        let ask = |config: &str| of(config).family(Least::Detector);
        for detr in
            [r#"{"model_type": "detr"}"#, r#"{"architectures": ["DetrForObjectDetection"]}"#, r#"{"architectures": ["DetrForSegmentation"]}"#, "{}"]
        {
            assert_eq!(ask(detr), Ok(Family::Detr), "{detr}");
        }
        let problem = ask(r#"{"model_type": "yolos", "architectures": ["YolosForObjectDetection"]}"#).unwrap_err();
        assert_eq!(
            problem,
            "config.json is about a model of type yolos (YolosForObjectDetection); detrim reads detr, rt_detr, rt_detr_v2, d_fine, deimv2"
        );
        assert_eq!(ask(r#"{"model_type": "d_fine"}"#), Ok(Family::RtDetr(ModelType::DFine)));
        assert_eq!(ask(r#"{"architectures": ["RTDetrV2ForObjectDetection"]}"#), Ok(Family::RtDetr(ModelType::RtDetrV2)));
        let problem = ask(r#"{"architectures": ["BertForMaskedLM"]}"#).unwrap_err();
        assert!(problem.contains("BertForMaskedLM") && problem.contains("detr"), "{problem}");
        assert!(ask(r#"{"model_type": "resnet"}"#).is_err());
        assert_eq!(of(r#"{"model_type": "resnet"}"#).family(Least::Backbone), Ok(Family::Detr));
    }

    #[test]
    fn texts_that_are_no_objects_are_named() {
        for (config, preprocessor, name) in
            [("[]", "{}", "config.json"), ("{", "{}", "config.json"), ("{}", "3", "preprocessor_config.json"), ("{}", "", "preprocessor_config.json")]
        {
            let beside = Beside { config: Some(config.into()), preprocessor: Some(preprocessor.into()) };
            let problem = Evidence::new(&Contents::default(), &beside).unwrap_err();
            assert!(problem.starts_with(name), "{problem}");
        }
        assert!(of("\u{feff}{\"model_type\": \"detr\"}").config.is_some());
    }
}
