"""Nasty strings for the tokenizers: each is a bytes object, most of them valid UTF-8."""

from __future__ import annotations

_TEXTS = [
    # white space and line ends
    "", " ", "  ", "   ", "    ", " " * 17, "\t", "\t\t\t", " \t \t ", "\n", "\n\n", "\n\n\n", "\r\n",
    "\r\n\r\n", "\r", " \n", "\n ", "  \n  \n  ", "\t\n\t", "a\n\n\n\nb", "a  b   c    d     e",
    " leading", "trailing ", "  two leading", "trailing two  ", "a\u00a0b\u2003c\u3000d\u200be",
    "line one\r\nline two\r\n", "\u2028\u2029", "\v\f", "\x00", "a\x00b", "\x01\x02\x7f\x1b[31m",
    # words, contractions, case
    "Hello world", " Hello world", "Hello, world!", "HELLO WORLD", "hElLo WoRlD", "Hello  World !",
    "I'm you're he'd we'll they've it's", "I'M YOU'RE HE'D WE'LL THEY'VE IT'S",
    "don\u2019t won\u2019t it\u2019s", "'s 't 're 've 'm 'll 'd", "'''''''",
    "O'Neill's '90s rock'n'roll", "The quick brown fox jumps over the lazy dog.",
    "camelCaseIdentifier snake_case_identifier SCREAMING_SNAKE kebab-case-name",
    "naïve façade coöperate Ångström", "Äpfel Öl Übergröße Straße", "na\u0131ve \u0130stanbul",
    "e\u0301 n\u0303 a\u030a (decomposed)", "ﬁ ﬂ ﬀ ligatures",
    # numbers
    "0", "1", "12", "123", "1234", "12345", "123456", "1234567", "12345678901234567890",
    "3.14159265358979", "1,234,567.89", "-42", "1e-10", "0x1F4A9", "2024-02-29T23:59:59Z",
    "192.168.0.1:11434", "½ ¼ ² ³ ① Ⅷ", "١٢٣٤٥٦٧", "१२३४", "１２３４", "v1.2.3-rc.4+build5",
    "7tuijk w048 9x9x9",
    # punctuation and symbols
    "!", "!!!", "?!?!", "...", "\u2026", "--- --- ---", "=========", "(((((())))))", "[[{{<<>>}}]]",
    "a.b.c.d", "$100 €200 £300 ¥400 ₿5", "50% & 3 < 4 > 2 | x ^ y ~ z",
    "@user #hashtag https://example.com/path?q=1&r=%20#frag", "user.name+tag@example.co.uk",
    "“quoted” ‘text’ «guillemets» —dash–", "\\n \\t \\\\ \\u0041", "`code` ```block```",
    # scripts
    "нещо на Български", "Быстрая лиса прыгает", "Ελληνικά γλώσσα ὀξεῖα", "中文分词测试，包括标点。",
    "日本語のテスト：ひらがな、カタカナ、漢字。", "한국어 문장입니다. 띄어쓰기도 있다",
    "ភាសាខ្មែរ ពិសេសអាច", "ภาษาไทยไม่มีช่องว่าง", "हिन्दी में परीक्षण क्षत्रिय", "தமிழ் மொழி",
    "العربية من اليمين إلى اليسار ١٢٣", "עברית עם נִקּוּד", "ქართული ენა", "Tiếng Việt có dấu", "አማርኛ",
    "Mixed 中文 and English и русский 123", "𝒯𝓱𝓮 𝕢𝕦𝕚𝕔𝕜 𐍈𐌰𐌹 𠜎𠜱𠝹", "Ｆｕｌｌｗｉｄｔｈ ＡＢＣ",
    "ⓒⓘⓡⓒⓛⓔⓓ",
    # emoji
    "😀", "🚀 (normal) 😶‍🌫️ (multiple emojis concatenated) ✅", "👨‍👩‍👧‍👦👩🏽‍💻", "🇩🇪🇫🇷🇯🇵",
    "❤️♥︎☺️", "1️⃣2️⃣#️⃣", "🦙🦙🦙 this is 🦙.cpp", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "a😀b🚀c",
    # code
    "def f(x: int) -> int:\n    return x ** 2  # square\n",
    "for (int i = 0; i < n; ++i) {\n\t\tsum += a[i];\n}\n",
    "if x == 1:\n        pass\n    else:\n\n\n        y = 2", "<div class=\"a\">&nbsp;</div><!-- c -->",
    '{"key": [1, 2.5, null, true], "nested": {"a": "b\\"c"}}', "SELECT * FROM t WHERE a='b' AND c<>1;",
    "$ grep -rn 'x' ./src | wc -l\n", "#include <stdio.h>\nint main(void){return 0;}",
    "\\frac{a}{b} \\sum_{i=0}^{\\infty} x_i^2", "const f=async()=>{await x?.y??z};",
    # special tokens and things that look like them
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "<|endoftext|>", "a<|endoftext|>b",
    " <|im_end|> ", "<|im_start|", "<|im_start|><|im_start|>", "<|unknown|>", "<bos>", "<eos>",
    "<pad><unk><mask>", "<start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n",
    "<s>[INST] x [/INST]</s>", "[CLS] a [SEP] b [MASK] [UNK] [PAD]", "<0x0A>", "<0x41><0x42>",
    "<unused0>", "▁▁ ▁a", "Ġhello Ċ", "<repo_name>x<file_sep>y", "[multimodal]",
    "<b>bold</b> <h1>title</h1> <table><tr><td>", "<blockquote><i>x</i></blockquote>",
    # long things
    "supercalifragilisticexpialidocious",
    "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft", "a" * 300,
    "ab" * 200, "1" * 100, "." * 120, " " * 200 + "x", "\n" * 60, "word " * 80, "中" * 90,
    "aaaaaAAAAAaaaaa_____-----", "x" * 101, "\u0301" * 20, "ZWJ\u200d\u200d\u200d", "\ufeffBOM first",
    "\ufffd\ufffd", "\ue000\uf8ff private", "\U0010ffff",
    "\n \n\n \n\n\n \t \t\t \t\n  \n   \n    \n     \n🚀 (normal) ✅ 🦙🦙 3 33 333 3333 33333 "
    "............ !!!!!! ?????? I've been 'told he's there, 'RE you sure? 'M not sure I'll "
    "make it, 'D you like some tea? We'Ve a'lL",
]  # fmt: skip

_INVALID = [
    b"\xff", b"\xc3", b"a\xc3", b"\xc3(", b"\xe4\xb8", b"\xf0\x9f\x98", b"\x80\x80\x80",
    b"ok \xfe\xff ok", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80",
]  # fmt: skip

STRINGS: list[bytes] = [text.encode() for text in _TEXTS] + _INVALID


def as_json(text: bytes) -> dict[str, str]:
    try:
        return {"text": text.decode()}
    except UnicodeDecodeError:
        return {"hex": text.hex()}
