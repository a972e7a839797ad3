//! Text for a terminal: labels, tensors' and files' names come from strangers, and a terminal takes some characters for orders.

use std::borrow::Cow;

/// The same with control characters and those that turn the direction of writing made visible; lines and tabs stay.
pub fn printable(text: &str) -> Cow<'_, str> {
    let steers = |c: char| (c.is_control() && c != '\n' && c != '\t') || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if !text.contains(steers) {
        return text.into();
    }
    text.chars().map(|c| if steers(c) { c.escape_default().to_string() } else { c.to_string() }).collect::<String>().into()
}

#[cfg(test)]
mod tests {
    use super::printable;

    #[test]
    fn nothing_steers_the_terminal() {
        assert_eq!(printable("cat\tköttbulle 猫\n"), "cat\tköttbulle 猫\n");
        assert_eq!(printable("a\x1b[2Jb\rc\u{9b}d\u{202e}e"), "a\\u{1b}[2Jb\\rc\\u{9b}d\\u{202e}e");
    }
}
