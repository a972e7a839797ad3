//! The inert values that our unpickler builds, and what it makes of a call.
//!
//! Values lie in one list and refer to each other by number: sharing costs nothing, and neither reading nor dropping a deeply
//! nested value recurses.

use crate::checkpoint::tensors::Dtype;

/// More dimensions than any tensor of a model has.
const MAX_DIMENSIONS: usize = 8;

/// A value's place in the list.
pub type Id = u32;

#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// Anything that no tensor depends on: None, an object of whatever class.
    Inert,
    /// An object of whatever class, and its state.
    Object(Id),
    Int(i64),
    Float(f64),
    /// A number of more than 64 bits, as it is written.
    Long(&'a [u8]),
    Bool(bool),
    /// A string or bytes.
    Text(&'a [u8]),
    Sequence(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Global(Global),
    Storage(StorageRef<'a>),
    Tensor(TensorRef),
}

/// The classes and functions that we know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    /// Of a subclass of tensors: calls one of the others.
    RebuildFromType,
    Storage(Dtype),
}

/// Where a tensor's numbers lie, by the storage's key.
#[derive(Clone, Debug, PartialEq)]
pub struct StorageRef<'a> {
    pub key: &'a [u8],
    pub dtype: Dtype,
    /// Of the whole storage.
    pub elements: usize,
    /// The first element of this view of it.
    pub start: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub struct TensorRef {
    pub storage: Id,
    pub offset: usize,
    pub shape: Vec<usize>,
    /// In elements.
    pub strides: Vec<usize>,
}

impl Global {
    /// The class or function of a name; most are inert.
    pub fn named(module: &[u8], name: &[u8]) -> Option<Self> {
        let torch = module == b"torch" || module == b"torch.cuda" || module == b"torch.storage";
        Some(match (module, name) {
            (b"collections", b"OrderedDict") => Global::OrderedDict,
            (b"torch._utils", b"_rebuild_tensor" | b"_rebuild_tensor_v2") => Global::RebuildTensor,
            (b"torch._utils", b"_rebuild_parameter" | b"_rebuild_parameter_with_state") => Global::RebuildParameter,
            (b"torch._tensor", b"_rebuild_from_type_v2") => Global::RebuildFromType,
            (_, name) if torch => Global::Storage(match name {
                b"DoubleStorage" => Dtype::F64,
                b"FloatStorage" => Dtype::F32,
                b"HalfStorage" => Dtype::F16,
                b"BFloat16Storage" => Dtype::Bf16,
                b"ComplexDoubleStorage" => Dtype::Other(16),
                b"LongStorage" | b"ComplexFloatStorage" => Dtype::Other(8),
                b"IntStorage" | b"QInt32Storage" => Dtype::Other(4),
                b"ShortStorage" => Dtype::Other(2),
                b"CharStorage" | b"ByteStorage" | b"BoolStorage" | b"QInt8Storage" | b"QUInt8Storage" | b"UntypedStorage" => Dtype::Other(1),
                _ => return None,
            }),
            _ => return None,
        })
    }
}

/// Looks values up while the list is still being made.
pub struct Values<'a>(pub Vec<Value<'a>>);

impl<'a> Values<'a> {
    pub fn get(&self, id: Id) -> &Value<'a> {
        self.0.get(id as usize).unwrap_or(&Value::Inert)
    }

    fn sequence(&self, id: Id) -> Option<&[Id]> {
        match self.get(id) {
            Value::Sequence(items) => Some(items),
            _ => None,
        }
    }

    fn size(&self, id: Id) -> Option<usize> {
        match self.get(id) {
            Value::Int(number) => usize::try_from(*number).ok(),
            _ => None,
        }
    }

    fn sizes(&self, id: Id) -> Option<Vec<usize>> {
        self.sequence(id).filter(|sizes| sizes.len() <= MAX_DIMENSIONS)?.iter().map(|&id| self.size(id)).collect()
    }

    pub fn text(&self, id: Id) -> Option<&'a [u8]> {
        match self.get(id) {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// What calling `function` with `arguments` gives. Whatever we don't know gives an inert value; a call that we know, but not
    /// with such arguments, is an error.
    pub fn call(&self, function: Id, arguments: Id) -> Result<Value<'a>, String> {
        let Value::Global(function) = self.get(function) else { return Ok(Value::Inert) };
        let arguments = self.sequence(arguments).ok_or("a call's arguments are no tuple")?;
        match function {
            Global::OrderedDict => Ok(Value::Dict(self.pairs(arguments))),
            Global::RebuildTensor => self.tensor(arguments).map(Value::Tensor).ok_or_else(|| "a tensor is described in an unknown way".into()),
            Global::RebuildParameter => match arguments.first().map(|&id| self.get(id)) {
                Some(Value::Tensor(tensor)) => Ok(Value::Tensor(tensor.clone())),
                _ => Err("a parameter holds no tensor".into()),
            },
            // `(function, type, arguments, state)`
            Global::RebuildFromType => match *arguments {
                [inner, _, arguments, ..] if *self.get(inner) != Value::Global(Global::RebuildFromType) => self.call(inner, arguments),
                _ => Err("a tensor is described in an unknown way".into()),
            },
            Global::Storage(_) => Ok(Value::Inert),
        }
    }

    /// How many values a call looks through.
    pub fn length(&self, function: Id, arguments: Id) -> usize {
        let list = || self.sequence(*self.sequence(arguments)?.first()?).map(<[Id]>::len);
        if *self.get(function) == Value::Global(Global::OrderedDict) { list().unwrap_or(0) } else { 0 }
    }

    /// `OrderedDict([[key, value], …])`, as Python 2 pickled it; no argument makes an empty one.
    fn pairs(&self, arguments: &[Id]) -> Vec<(Id, Id)> {
        let items = arguments.first().and_then(|&id| self.sequence(id)).unwrap_or_default();
        items.iter().filter_map(|&item| <[Id; 2]>::try_from(self.sequence(item)?).ok()).map(|[key, value]| (key, value)).collect()
    }

    /// `_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks)`
    fn tensor(&self, arguments: &[Id]) -> Option<TensorRef> {
        let [storage, offset, shape, strides, ..] = *arguments else { return None };
        Some(TensorRef { storage, offset: self.size(offset)?, shape: self.sizes(shape)?, strides: self.sizes(strides)? })
    }

    /// `("storage", type, key, location, elements)`, in the legacy format with a view `(key, offset, elements)` or None.
    pub fn storage(&self, id: Id) -> Value<'a> {
        self.find_storage(id).map_or(Value::Inert, Value::Storage)
    }

    fn find_storage(&self, id: Id) -> Option<StorageRef<'a>> {
        let [kind, class, key, _location, elements, rest @ ..] = self.sequence(id)? else { return None };
        let (b"storage", Value::Global(Global::Storage(dtype))) = (self.text(*kind)?, self.get(*class)) else { return None };
        let start = match rest.first().and_then(|&view| self.sequence(view)) {
            Some([_, offset, _]) => self.size(*offset)?,
            _ => 0,
        };
        Some(StorageRef { key: self.text(*key)?, dtype: *dtype, elements: self.size(*elements)?, start })
    }
}
