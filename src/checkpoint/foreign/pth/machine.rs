//! The unpickler's state: the program's bytes, the stack with its marks, the memo and the values made so far.

use super::value::{Id, Value, Values};
use std::collections::HashMap;

/// More steps than any checkpoint's pickle takes (a DETR's with its optimiser's state: some thirty thousand). Each makes at most one
/// value of less than a hundred bytes, so this bounds memory too.
pub const MAX_STEPS: usize = 4_000_000;

/// Nothing in it refers to anything but bytes of the file and, by number, other values.
pub struct Machine<'a> {
    bytes: &'a [u8],
    pub place: usize,
    pub values: Values<'a>,
    pub stack: Vec<Id>,
    /// Heights of the stack.
    pub marks: Vec<usize>,
    pub memo: HashMap<u64, Id>,
    /// What calls have looked through: the only steps that can take long.
    looked_at: usize,
}

impl<'a> Machine<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, place: 0, values: Values(Vec::new()), stack: Vec::new(), marks: Vec::new(), memo: HashMap::new(), looked_at: 0 }
    }

    pub fn take(&mut self, length: usize) -> Result<&'a [u8], String> {
        let taken = self.bytes[self.place..].get(..length).ok_or("it ends too early")?;
        self.place += length;
        Ok(taken)
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        self.take(N)?.try_into().map_err(|_| "it ends too early".into())
    }

    pub fn byte(&mut self) -> Result<u8, String> {
        self.array().map(|[byte]| byte)
    }

    pub fn length4(&mut self) -> Result<usize, String> {
        Ok(u32::from_le_bytes(self.array()?) as usize)
    }

    pub fn length8(&mut self) -> Result<usize, String> {
        usize::try_from(u64::from_le_bytes(self.array()?)).map_err(|_| "an impossible length".into())
    }

    /// Up to a line's end, which is not part of it.
    pub fn line(&mut self) -> Result<&'a [u8], String> {
        let length = self.bytes[self.place..].iter().position(|&byte| byte == b'\n').ok_or("it ends too early")?;
        let line = self.take(length)?;
        self.place += 1;
        Ok(line)
    }

    pub fn line_number(&mut self) -> Result<u64, String> {
        std::str::from_utf8(self.line()?).ok().and_then(|line| line.parse().ok()).ok_or_else(|| "a number was expected".into())
    }

    pub fn take_text(&mut self, length: usize) -> Result<(), String> {
        let text = self.take(length)?;
        self.push(Value::Text(text))
    }

    /// A signed number of some bytes, the lowest first.
    pub fn long(&mut self, length: usize) -> Result<(), String> {
        let bytes = self.take(length)?;
        if length > 8 {
            return self.push(Value::Long(bytes));
        }
        let mut number = if bytes.last().is_some_and(|&byte| byte >= 0x80) { [0xff; 8] } else { [0; 8] };
        number[..length].copy_from_slice(bytes);
        self.push(Value::Int(i64::from_le_bytes(number)))
    }

    pub fn push(&mut self, value: Value<'a>) -> Result<(), String> {
        let id = Id::try_from(self.values.0.len()).map_err(|_| "too many values")?;
        self.values.0.push(value);
        self.stack.push(id);
        Ok(())
    }

    pub fn call(&mut self) -> Result<(), String> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        self.looked_at += self.values.length(function, arguments);
        if self.looked_at > MAX_STEPS {
            return Err("too many values".into());
        }
        let value = self.values.call(function, arguments)?;
        self.push(value)
    }

    pub fn top(&self) -> Result<Id, String> {
        // What lies below the last mark belongs to somebody else.
        let floor = self.marks.last().copied().unwrap_or(0);
        self.stack[floor.min(self.stack.len())..].last().copied().ok_or_else(|| "the stack is empty".into())
    }

    pub fn pop(&mut self) -> Result<Id, String> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    /// Drops the top of the stack, or the last mark if it is there.
    pub fn discard(&mut self) -> Result<(), String> {
        if self.marks.last() == Some(&self.stack.len()) {
            self.marks.pop();
            return Ok(());
        }
        self.pop().map(drop)
    }

    /// Everything above the last mark.
    pub fn items(&mut self) -> Result<Vec<Id>, String> {
        let from = self.marks.pop().ok_or("there is no mark")?;
        self.above(from)
    }

    pub fn above(&mut self, from: usize) -> Result<Vec<Id>, String> {
        if from > self.stack.len() || self.marks.last().is_some_and(|&mark| from < mark) {
            return Err("the stack is empty".into());
        }
        Ok(self.stack.split_off(from))
    }

    /// Adds to the list on top of the stack; other objects forget what they are given.
    pub fn extend(&mut self, items: &[Id]) -> Result<(), String> {
        let top = self.top()?;
        if let Some(Value::Sequence(list)) = self.values.0.get_mut(top as usize) {
            list.extend_from_slice(items);
        }
        Ok(())
    }

    /// Adds keys and values to the dictionary on top of the stack. An object of an unknown class that is given some is a dictionary, too.
    pub fn set(&mut self, items: &[Id]) -> Result<(), String> {
        let top = self.top()?;
        match self.values.0.get_mut(top as usize) {
            Some(Value::Dict(entries)) => entries.extend(pairs(items)),
            Some(value @ Value::Inert) => *value = Value::Dict(pairs(items)),
            _ => {}
        }
        Ok(())
    }

    /// Gives an object its state. Of one that we don't know this is all there is to know.
    pub fn build(&mut self) -> Result<(), String> {
        let (state, top) = (self.pop()?, self.top()?);
        if let Some(value @ Value::Inert) = self.values.0.get_mut(top as usize) {
            *value = Value::Object(state);
        }
        Ok(())
    }

    pub fn memorise(&mut self, key: u64) -> Result<(), String> {
        let top = self.top()?;
        self.memo.insert(key, top);
        Ok(())
    }

    pub fn recall(&mut self, key: u64) -> Result<(), String> {
        let id = *self.memo.get(&key).ok_or_else(|| format!("nothing was memorised under {key}"))?;
        self.stack.push(id);
        Ok(())
    }
}

/// Key, value, key, value, …
pub fn pairs(items: &[Id]) -> Vec<(Id, Id)> {
    items.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect()
}
