// Answers what Ollama's template package makes of templates: a JSON question per line in, a JSON answer per line out.
//
// Built inside of a checkout of Ollama (go build -o oracle ./oracle), or in a module of its own whose go.mod replaces
// github.com/ollama/ollama by one.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"

	"github.com/ollama/ollama/api"
	"github.com/ollama/ollama/template"
)

type ask struct {
	Template string
	Messages []api.Message
	Tools    []api.Tool
	Prompt   string
	Suffix   string
	Think    bool
	Level    string
	Set      bool
}

type answer struct {
	Create string `json:"create,omitempty"`
	Error  string `json:"error,omitempty"`
	Panic  string `json:"panic,omitempty"`
	Text   string `json:"text"`
	Vars []string `json:"vars,omitempty"`
}

func run(a ask) (out answer) {
	defer func() {
		if r := recover(); r != nil {
			out = answer{Panic: fmt.Sprint(r)}
		}
	}()
	t, err := template.Parse(a.Template)
	if err != nil {
		return answer{Create: err.Error()}
	}
	vars, _ := t.Vars()
	var b bytes.Buffer
	if err := t.Execute(&b, template.Values{Messages: a.Messages, Tools: a.Tools, Prompt: a.Prompt, Suffix: a.Suffix, Think: a.Think, ThinkLevel: a.Level, IsThinkSet: a.Set}); err != nil {
		return answer{Error: err.Error(), Text: b.String(), Vars: vars}
	}
	return answer{Text: b.String(), Vars: vars}
}

func main() {
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(make([]byte, 1<<20), 1<<26)
	enc := json.NewEncoder(os.Stdout)
	enc.SetEscapeHTML(false)
	for in.Scan() {
		var a ask
		if err := json.Unmarshal(in.Bytes(), &a); err != nil {
			enc.Encode(answer{Panic: "ask: " + err.Error()})
			continue
		}
		enc.Encode(run(a))
	}
}
