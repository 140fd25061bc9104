package pages

import (
	"bytes"
	"strings"
	"testing"
)

// What is not seen and makes two texts look alike is shown; what belongs to a script or to emoji stays.
func TestVisible(t *testing.T) {
	t.Parallel()
	kept := "👩\u200d💻 1\ufe0f\u20e3 ©\ufe0f ❤\ufe0f\u200d🔥 नमस्\u200dते می\u200cخواهم ไทย\u200bครับ 🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f naïve\r\n\t"
	shown := "a\u200bb a\u200cb a\u200d\u200cb a\u00adb \ufeffa é\u2060b a\u2028b\u2029 \u0000\u007f\u202e\u200e ไ\u2066 a\ufe0fb a\u3164b \U000e0041"
	for text, odd := range map[string]int{kept: 0, shown: 17} {
		var out bytes.Buffer
		if n, err := (visible{&out}).Write([]byte(text)); n != len(text) || err != nil {
			t.Fatal(n, err)
		}
		if got := strings.Count(out.String(), "\ufffd"); got != odd || odd == 0 && out.String() != text {
			t.Errorf("%q is shown as %q, with %d replaced, want %d", text, out.String(), got, odd)
		}
	}
	if got := renderDocument("README.md", []byte("\ufeff# Title"), place{}); !strings.Contains(string(got), "<h") {
		t.Errorf("a title behind a mark of the order of bytes is no title: %s", got)
	}
}
