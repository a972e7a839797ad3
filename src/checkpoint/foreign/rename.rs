//! Finds our names for a foreign file's tensors, by the table in `names.rs`.

use super::names::{DIALECTS, Dialect};
use super::root::{Named, Rooted};
use std::collections::{BTreeMap, BTreeSet};

/// A foreign file's tensors under our names, batch norm not yet folded.
pub struct Renamed<'a> {
    pub tensors: BTreeMap<String, Named<'a>>,
    /// Foreign names that no row of the table matches.
    pub strays: Vec<String>,
    /// What the file puts before every name.
    root: String,
    /// The spellings that occur: prefix and index of the dialect.
    spellings: BTreeSet<(&'static str, usize)>,
}

/// Whether the table has a row for a name.
pub fn known(name: &str) -> bool {
    matches(name).next().is_some()
}

impl<'a> Renamed<'a> {
    pub fn new(rooted: Rooted<'a>) -> Result<Self, String> {
        let mut renamed = Self { tensors: BTreeMap::new(), strays: rooted.beside, root: rooted.root, spellings: BTreeSet::new() };
        for (name, Named { foreign, tensor }) in &rooted.tensors {
            let Some((ours, prefix, dialect)) = find(name, |sibling| rooted.tensors.contains_key(sibling)) else {
                renamed.strays.push(foreign.clone());
                continue;
            };
            renamed.spellings.insert((prefix, dialect));
            let names = alternatives(&ours);
            for (part, name) in names.iter().enumerate() {
                let tensor = if names.len() == 1 { Some(tensor.clone()) } else { tensor.rows(part, names.len()) };
                let tensor = tensor.ok_or_else(|| format!("tensor {foreign} can't be divided into {} blocks of rows", names.len()))?;
                if let Some(other) = renamed.tensors.insert(name.clone(), Named { foreign: foreign.clone(), tensor }) {
                    return Err(format!("tensors {} and {foreign} are the same part of the network", other.foreign));
                }
            }
        }
        Ok(renamed)
    }

    /// Whether there are tensors whose names begin so.
    pub fn has_any(&self, beginning: &str) -> bool {
        self.tensors.range(beginning.to_string()..).next().is_some_and(|(name, _)| name.starts_with(beginning))
    }

    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|named| &named.tensor.shape[..])
    }

    /// What this file would call a tensor of ours that it lacks.
    pub fn foreign_name(&self, ours: &str) -> String {
        let root = &self.root;
        let spelt = |(prefix, dialect): &(&'static str, usize)| {
            DIALECTS[*dialect].rows.iter().find_map(|(foreign, own)| {
                let matched = alternatives(own).iter().find_map(|own| Match::new(own, ours))?;
                Some(format!("{root}{prefix}{}", matched.fill(foreign)))
            })
        };
        self.spellings.iter().find_map(spelt).unwrap_or_else(|| ours.into())
    }
}

/// Our name for a foreign one (without root), with the prefix and the dialect in which it was found.
fn find(name: &str, exists: impl Fn(&str) -> bool) -> Option<(String, &'static str, usize)> {
    let mut fitting = matches(name).filter(|&(_, prefix, index)| {
        let rest = &name[prefix.len()..];
        fits_block(&DIALECTS[index], rest, |sibling| exists(&format!("{prefix}{sibling}")))
    });
    fitting.next()
}

/// All that the table makes of a name, kinds of blocks aside.
fn matches(name: &str) -> impl Iterator<Item = (String, &'static str, usize)> {
    DIALECTS.iter().enumerate().flat_map(move |(index, dialect)| {
        dialect.prefixes.iter().filter_map(move |prefix| {
            let rest = name.strip_prefix(prefix)?;
            let ours = dialect.rows.iter().find_map(|(foreign, own)| Some(Match::new(foreign, rest)?.fill(own)))?;
            Some((ours, *prefix, index))
        })
    })
}

/// Whether a name is of the kind of block that the dialect is for: `conv_pw` is the first convolution of one kind and the last of
/// the other.
fn fits_block(dialect: &Dialect, name: &str, exists: impl Fn(&str) -> bool) -> bool {
    let (Some(wanted), Some(inner)) = (dialect.third_convolution, name.strip_prefix("blocks.")) else { return true };
    let block: Vec<&str> = inner.splitn(3, '.').take(2).collect();
    exists(&format!("blocks.{}.conv_pwl.weight", block.join("."))) == wanted
}

/// `a.{b,c}.d` → `a.b.d`, `a.c.d`; one name where there are no braces.
pub fn alternatives(name: &str) -> Vec<String> {
    match name.split_once('{').and_then(|(before, rest)| Some((before, rest.split_once('}')?))) {
        Some((before, (inner, after))) => inner.split(',').map(|part| format!("{before}{part}{after}")).collect(),
        None => vec![name.into()],
    }
}

/// What the wildcards of a pattern stand for in a name: `#` for a number, `+` for one that is less by one on the other side, `@` for a whole
/// part, `*` for the last one.
#[derive(Debug, PartialEq)]
pub struct Match<'a> {
    numbers: Vec<usize>,
    parts: Vec<&'a str>,
    last: &'a str,
}

impl<'a> Match<'a> {
    pub fn new(pattern: &str, name: &'a str) -> Option<Self> {
        let (mut numbers, mut parts, mut rest) = (Vec::new(), Vec::new(), name);
        for token in pattern.chars() {
            match token {
                '*' => return (!rest.is_empty() && !rest.contains('.')).then_some(Self { numbers, parts, last: rest }),
                '@' => {
                    let part = rest.split('.').next().filter(|part| !part.is_empty())?;
                    parts.push(part);
                    rest = &rest[part.len()..];
                }
                '#' | '+' => {
                    let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
                    // Three digits: no network has a thousand layers, and a hostile name shouldn't make us count them.
                    let number: usize = rest.get(..digits).filter(|digits| digits.len() <= 3)?.parse().ok()?;
                    numbers.push(if token == '+' { number.checked_sub(1)? } else { number });
                    rest = &rest[digits..];
                }
                letter => rest = rest.strip_prefix(letter)?,
            }
        }
        rest.is_empty().then_some(Self { numbers, parts, last: "" })
    }

    pub fn fill(&self, pattern: &str) -> String {
        let (mut numbers, mut parts) = (self.numbers.iter(), self.parts.iter());
        let mut out = String::new();
        for token in pattern.chars() {
            match token {
                '*' => out += self.last,
                '@' => out += parts.next().copied().unwrap_or_default(),
                '#' => out += &numbers.next().map_or(String::new(), usize::to_string),
                '+' => out += &numbers.next().map_or(String::new(), |number| (number + 1).to_string()),
                letter => out.push(letter),
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::tensors::RawTensor;

    fn ours(name: &str) -> Option<String> {
        find(name, |_| false).map(|(ours, ..)| ours)
    }

    /// Tensors of such names after a root.
    fn renamed(root: &str, names: &[&str]) -> Renamed<'static> {
        let tensor = RawTensor::contiguous(crate::checkpoint::tensors::Dtype::F32, vec![3], &[0; 12]).unwrap();
        let named = |name: &&str| (name.to_string(), Named { foreign: format!("{root}{name}"), tensor: tensor.clone() });
        Renamed::new(Rooted { tensors: names.iter().map(named).collect(), root: root.into(), ..Rooted::default() }).unwrap()
    }

    #[test]
    fn every_spelling_leads_to_our_name() {
        for (foreign, own) in [
            ("model.encoder.layers.11.self_attn.q_proj.weight", "encoder.11.self_attention.query.weight"),
            ("model.decoder.layers.0.encoder_attn.o_proj.bias", "decoder.0.cross_attention.output.bias"),
            ("model.decoder.layers.2.mlp.fc2.weight", "decoder.2.ffn2.weight"),
            ("model.backbone.conv_encoder.model.layer4.2.bn3.running_var", "backbone.stage4.block2.conv3.norm.running_var"),
            ("model.backbone.model.encoder.stages.3.layers.2.layer.0.convolution.weight", "backbone.stage4.block2.conv1.weight"),
            ("backbone.0.body.layer1.0.downsample.0.weight", "backbone.stage1.block0.projection.weight"),
            ("transformer.decoder.layers.5.multihead_attn.in_proj_bias", "decoder.5.cross_attention.{query,key,value}.bias"),
            ("bbox_embed.layers.2.weight", "box_head.2.weight"),
            ("query_embed.weight", "query_position"),
            ("model.backbone.conv_encoder.model.blocks.0.0.conv_pw.weight", "backbone.stage0.block0.project.weight"),
        ] {
            assert_eq!(ours(foreign).as_deref(), Some(own));
        }
        for stray in ["mask_head.lay1.weight", "model.encoder.layers.1234.fc1.weight", "model.encoder.layers.x.fc1.weight", "", "model."] {
            assert_eq!(ours(stray), None);
        }
    }

    #[test]
    fn names_a_missing_tensor_as_the_file_would() {
        let names = ["model.encoder.layers.0.fc1.bias", "model.backbone.conv_encoder.model.encoder.stages.0.layers.0.layer.0.convolution.weight"];
        let hugging_face = renamed("", &names);
        assert_eq!(hugging_face.foreign_name("encoder.3.ffn2.weight"), "model.encoder.layers.3.fc2.weight");
        assert_eq!(
            hugging_face.foreign_name("backbone.stage2.block1.conv3.weight"),
            "model.backbone.conv_encoder.model.encoder.stages.1.layers.1.layer.2.convolution.weight"
        );
        let original = renamed("model.module.", &["transformer.encoder.layers.0.self_attn.in_proj_bias"]);
        assert_eq!(original.tensors.len(), 3);
        assert_eq!(original.foreign_name("encoder.1.self_attention.key.bias"), "model.module.transformer.encoder.layers.1.self_attn.in_proj_bias");
    }
}
