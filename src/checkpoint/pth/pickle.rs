//! Runs a pickle's program (protocols 0 to 5, as CPython's `pickletools` documents them), building inert values only.

use super::value::{Global, Id, Value, Values};
use std::collections::HashMap;

/// More steps than any checkpoint's pickle takes (a DETR's with its optimiser's state: some thirty thousand). Each makes at most one
/// value of less than a hundred bytes, so this bounds memory too.
const MAX_STEPS: usize = 4_000_000;

/// A pickle's values.
pub struct Pickle<'a> {
    values: Values<'a>,
    pub root: Id,
    /// How many bytes the pickle took.
    pub length: usize,
}

impl<'a> Pickle<'a> {
    /// Runs the pickle at the beginning of `bytes`.
    pub fn load(bytes: &'a [u8]) -> Result<Self, String> {
        let mut machine =
            Machine { bytes, place: 0, values: Values(Vec::new()), stack: Vec::new(), marks: Vec::new(), memo: HashMap::new(), copied: 0 };
        for _ in 0..MAX_STEPS {
            if machine.step().map_err(|problem| format!("broken pickle at byte {}: {problem}", machine.place))? {
                let root = machine.pop()?;
                return Ok(Self { values: machine.values, root, length: machine.place });
            }
        }
        Err(format!("its pickle takes more than {MAX_STEPS} steps"))
    }

    pub fn value(&self, id: Id) -> &Value<'a> {
        self.values.get(id)
    }

    pub fn text(&self, id: Id) -> Option<&'a str> {
        std::str::from_utf8(self.values.text(id)?).ok()
    }

    pub fn values(&self) -> &[Value<'a>] {
        &self.values.0
    }
}

struct Machine<'a> {
    bytes: &'a [u8],
    place: usize,
    values: Values<'a>,
    stack: Vec<Id>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u64, Id>,
    /// Entries of dictionaries that a call copied: the only values that can become large in one step.
    copied: usize,
}

impl<'a> Machine<'a> {
    /// One instruction; whether it was the last.
    fn step(&mut self) -> Result<bool, String> {
        match self.byte()? {
            b'.' => return Ok(true),
            0x80 => drop(self.byte()?),
            0x95 => drop(self.take(8)?),
            b'(' => self.marks.push(self.stack.len()),
            b'0' => self.discard()?,
            b'1' => drop(self.items()?),
            b'2' => {
                let top = self.top()?;
                self.stack.push(top);
            }
            // Numbers
            b'N' => self.push(Value::Inert)?,
            0x88 => self.push(Value::Bool(true))?,
            0x89 => self.push(Value::Bool(false))?,
            b'F' => {
                self.line()?;
                self.push(Value::Inert)?;
            }
            b'G' => {
                self.take(8)?;
                self.push(Value::Inert)?;
            }
            b'I' | b'L' => {
                let line = self.line()?;
                let value = match line {
                    b"00" => Value::Bool(false),
                    b"01" => Value::Bool(true),
                    _ => {
                        let digits = std::str::from_utf8(line.strip_suffix(b"L").unwrap_or(line)).map_err(|e| e.to_string())?;
                        digits.parse().map_or(Value::Inert, Value::Int)
                    }
                };
                self.push(value)?;
            }
            b'J' => {
                let number = i32::from_le_bytes(self.array()?);
                self.push(Value::Int(number.into()))?;
            }
            b'K' => {
                let number = self.byte()?;
                self.push(Value::Int(number.into()))?;
            }
            b'M' => {
                let number = u16::from_le_bytes(self.array()?);
                self.push(Value::Int(number.into()))?;
            }
            0x8a => {
                let length = self.byte()?.into();
                self.long(length)?;
            }
            0x8b => {
                let length = self.length4()?;
                self.long(length)?;
            }
            // Texts
            b'S' => {
                let line = self.line()?;
                let quoted = line.len() >= 2 && line.first() == line.last();
                self.push(Value::Text(if quoted { &line[1..line.len() - 1] } else { line }))?;
            }
            b'V' => {
                let line = self.line()?;
                self.push(Value::Text(line))?;
            }
            b'U' | b'C' | 0x8c => {
                let length = self.byte()?.into();
                self.take_text(length)?;
            }
            b'T' | b'X' | b'B' => {
                let length = self.length4()?;
                self.take_text(length)?;
            }
            0x8d | 0x8e | 0x96 => {
                let length = self.length8()?;
                self.take_text(length)?;
            }
            // Collections
            b']' | b')' | 0x8f => self.push(Value::Sequence(Vec::new()))?,
            b'}' => self.push(Value::Dict(Vec::new()))?,
            b'l' | b't' | 0x91 => {
                let items = self.items()?;
                self.push(Value::Sequence(items))?;
            }
            count @ 0x85..=0x87 => {
                let from = self.stack.len().checked_sub(usize::from(count - 0x84)).ok_or("the stack is empty")?;
                let items = self.above(from)?;
                self.push(Value::Sequence(items))?;
            }
            b'd' => {
                let items = self.items()?;
                self.push(Value::Dict(pairs(&items)))?;
            }
            b'a' => {
                let item = self.pop()?;
                self.extend(&[item])?;
            }
            b'e' | 0x90 => {
                let items = self.items()?;
                self.extend(&items)?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.extend(&[key, value])?;
            }
            b'u' => {
                let items = self.items()?;
                self.extend(&items)?;
            }
            // Objects
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push(Global::named(module, name).map_or(Value::Inert, Value::Global))?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let known = self.values.text(module).zip(self.values.text(name)).and_then(|(module, name)| Global::named(module, name));
                self.push(known.map_or(Value::Inert, Value::Global))?;
            }
            b'R' | 0x81 => self.call()?,
            0x92 => {
                self.discard()?;
                self.call()?;
            }
            // An object's state: none of the objects that we know has one that matters.
            b'b' => self.discard()?,
            b'i' => {
                self.line()?;
                self.line()?;
                self.items()?;
                self.push(Value::Inert)?;
            }
            b'o' => {
                self.items()?;
                self.push(Value::Inert)?;
            }
            b'P' => {
                self.line()?;
                self.push(Value::Inert)?;
            }
            b'Q' => {
                let id = self.pop()?;
                let value = self.values.storage(id);
                self.push(value)?;
            }
            code @ 0x82..=0x84 => {
                self.take(1 << (code - 0x82))?;
                self.push(Value::Inert)?;
            }
            0x97 => self.push(Value::Inert)?,
            0x98 => {}
            // The memo
            b'p' => {
                let key = self.line_number()?;
                self.memorise(key)?;
            }
            b'q' => {
                let key = self.byte()?.into();
                self.memorise(key)?;
            }
            b'r' => {
                let key = u32::from_le_bytes(self.array()?).into();
                self.memorise(key)?;
            }
            0x94 => self.memorise(self.memo.len() as u64)?,
            b'g' => {
                let key = self.line_number()?;
                self.recall(key)?;
            }
            b'h' => {
                let key = self.byte()?.into();
                self.recall(key)?;
            }
            b'j' => {
                let key = u32::from_le_bytes(self.array()?).into();
                self.recall(key)?;
            }
            other => return Err(format!("unknown instruction {other:#04x}")),
        }
        Ok(false)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], String> {
        let taken = self.bytes[self.place..].get(..length).ok_or("it ends too early")?;
        self.place += length;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        self.take(N)?.try_into().map_err(|_| "it ends too early".into())
    }

    fn byte(&mut self) -> Result<u8, String> {
        self.array().map(|[byte]| byte)
    }

    fn length4(&mut self) -> Result<usize, String> {
        Ok(u32::from_le_bytes(self.array()?) as usize)
    }

    fn length8(&mut self) -> Result<usize, String> {
        usize::try_from(u64::from_le_bytes(self.array()?)).map_err(|_| "an impossible length".into())
    }

    /// Up to a line's end, which is not part of it.
    fn line(&mut self) -> Result<&'a [u8], String> {
        let length = self.bytes[self.place..].iter().position(|&byte| byte == b'\n').ok_or("it ends too early")?;
        let line = self.take(length)?;
        self.place += 1;
        Ok(line)
    }

    fn line_number(&mut self) -> Result<u64, String> {
        std::str::from_utf8(self.line()?).ok().and_then(|line| line.parse().ok()).ok_or_else(|| "a number was expected".into())
    }

    fn take_text(&mut self, length: usize) -> Result<(), String> {
        let text = self.take(length)?;
        self.push(Value::Text(text))
    }

    /// A signed number of some bytes, the lowest first.
    fn long(&mut self, length: usize) -> Result<(), String> {
        let bytes = self.take(length)?;
        if length > 8 {
            return self.push(Value::Long(bytes));
        }
        let mut number = if bytes.last().is_some_and(|&byte| byte >= 0x80) { [0xff; 8] } else { [0; 8] };
        number[..length].copy_from_slice(bytes);
        self.push(Value::Int(i64::from_le_bytes(number)))
    }

    fn push(&mut self, value: Value<'a>) -> Result<(), String> {
        let id = Id::try_from(self.values.0.len()).map_err(|_| "too many values")?;
        self.values.0.push(value);
        self.stack.push(id);
        Ok(())
    }

    fn call(&mut self) -> Result<(), String> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let value = self.values.call(function, arguments)?;
        if let Value::Dict(entries) = &value {
            self.copied += entries.len();
            if self.copied > MAX_STEPS {
                return Err("too many values".into());
            }
        }
        self.push(value)
    }

    fn top(&self) -> Result<Id, String> {
        // What lies below the last mark belongs to somebody else.
        let floor = self.marks.last().copied().unwrap_or(0);
        self.stack[floor.min(self.stack.len())..].last().copied().ok_or_else(|| "the stack is empty".into())
    }

    fn pop(&mut self) -> Result<Id, String> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    /// Drops the top of the stack, or the last mark if it is there.
    fn discard(&mut self) -> Result<(), String> {
        if self.marks.last() == Some(&self.stack.len()) {
            self.marks.pop();
            return Ok(());
        }
        self.pop().map(drop)
    }

    /// Everything above the last mark.
    fn items(&mut self) -> Result<Vec<Id>, String> {
        let from = self.marks.pop().ok_or("there is no mark")?;
        self.above(from)
    }

    fn above(&mut self, from: usize) -> Result<Vec<Id>, String> {
        if from > self.stack.len() || self.marks.last().is_some_and(|&mark| from < mark) {
            return Err("the stack is empty".into());
        }
        Ok(self.stack.split_off(from))
    }

    /// Adds to the collection on top of the stack; other objects forget what they are given.
    fn extend(&mut self, items: &[Id]) -> Result<(), String> {
        let top = self.top()?;
        match self.values.0.get_mut(top as usize) {
            Some(Value::Sequence(list)) => list.extend_from_slice(items),
            Some(Value::Dict(entries)) => entries.extend(pairs(items)),
            _ => {}
        }
        Ok(())
    }

    fn memorise(&mut self, key: u64) -> Result<(), String> {
        let top = self.top()?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall(&mut self, key: u64) -> Result<(), String> {
        let id = *self.memo.get(&key).ok_or_else(|| format!("nothing was memorised under {key}"))?;
        self.stack.push(id);
        Ok(())
    }
}

/// Key, value, key, value, …
fn pairs(items: &[Id]) -> Vec<(Id, Id)> {
    items.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect()
}
