// Answers what Ollama's renderers make of conversations: a JSON question per line in, a JSON answer per line out.
//
// Built inside of a checkout of Ollama (go build -o oracle ./oracle).
package main

import (
	"bufio"
	"encoding/json"
	"io"
	"os"

	"github.com/ollama/ollama/api"
	"github.com/ollama/ollama/model/renderers"
)

type ask struct {
	Renderer string          `json:"renderer"`
	Messages []api.Message   `json:"messages"`
	Tools    []api.Tool      `json:"tools"`
	Think    *api.ThinkValue `json:"think"`
}

type answer struct {
	Prompt string `json:"prompt,omitempty"`
	Error  string `json:"error,omitempty"`
}

func run(line []byte) (out answer) {
	var a ask
	if err := json.Unmarshal(line, &a); err != nil {
		return answer{Error: err.Error()}
	}
	prompt, err := renderers.RenderWithRenderer(a.Renderer, a.Messages, a.Tools, a.Think)
	if err != nil {
		return answer{Error: err.Error()}
	}
	return answer{Prompt: prompt}
}

func main() {
	renderers.RenderImgTags = true // as the server has it
	lines := bufio.NewReader(os.Stdin)
	answers := json.NewEncoder(os.Stdout)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			if err := answers.Encode(run(line)); err != nil {
				panic(err)
			}
		}
		if err == io.EOF {
			return
		}
	}
}
