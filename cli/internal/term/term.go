package term

import (
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/term"
)

// IsTerminal reports whether a person may be watching w, by NO_COLOR and TERM
// too when colours matter; see Colours.
func IsTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// Colours reports whether w should get colours (https://no-color.org).
func Colours(w io.Writer, getenv func(string) string) bool {
	return IsTerminal(w) && getenv("NO_COLOR") == "" && getenv("TERM") != "dumb"
}

// Paint gives each name a colour of its own.
func Paint(name, text string) string {
	hash := fnv.New32a()
	_, _ = hash.Write([]byte(name))
	const firstColour, colours = 31, 6
	return fmt.Sprintf("\x1b[%dm%s\x1b[0m", firstColour+hash.Sum32()%colours, text)
}

// Table lays rows out in columns; the first row is the heading.
func Table(w io.Writer, rows [][]string) {
	var widths []int
	for _, row := range rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for _, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			line.WriteString(cell)
			if i < len(row)-1 {
				line.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+2))
			}
		}
		fmt.Fprintln(w, strings.TrimRight(line.String(), " "))
	}
}

const (
	drawEvery = 100 * time.Millisecond
	// quietFor is how long a step may take before it is spoken of.
	quietFor = 2 * time.Second
	clear    = "\r\x1b[K"
)

// Progress shows what is being waited for: a spinner on a terminal, a line for
// each step of more than two seconds elsewhere. Safe for concurrent use.
type Progress struct {
	w    io.Writer
	live bool
	done chan struct{}
	end  sync.WaitGroup

	mu      sync.Mutex
	text    string
	since   time.Time
	told    string
	quarter int64
	frame   int
	drawn   bool
}

// NewProgress shows progress on w until Stop.
func NewProgress(w io.Writer) *Progress {
	p := &Progress{w: w, live: IsTerminal(w), done: make(chan struct{})}
	p.end.Go(p.draw)
	return p
}

// Set says what is being waited for; empty for nothing.
func (p *Progress) Set(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if text != p.text {
		p.text, p.since = text, time.Now()
	}
	if text == "" {
		p.wipe() // At once: what comes next may go to another stream.
	}
}

// Bar shows how much of a download is there.
func (p *Progress) Bar(what string, done, total int64) {
	const width, mega = 24, 1 << 20
	if total <= 0 {
		return
	}
	if p.live {
		full := int(width * done / total)
		p.Set(fmt.Sprintf("%s [%s%s] %d/%d MiB", what, strings.Repeat("#", full), strings.Repeat(".", width-full), done/mega, total/mega))
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.text = "" // The lines below speak of it.
	if quarter := 1 + 4*done/total; quarter > p.quarter {
		p.quarter = quarter
		fmt.Fprintf(p.w, "%s: %d of %d MiB\n", what, done/mega, total/mega)
	}
}

// Println writes a line that stays.
func (p *Progress) Println(line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wipe()
	fmt.Fprintln(p.w, line)
}

// Stop takes the progress off the screen. Call it once.
func (p *Progress) Stop() {
	close(p.done)
	p.end.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wipe()
}

func (p *Progress) wipe() {
	if p.drawn {
		fmt.Fprint(p.w, clear)
		p.drawn = false
	}
}

func (p *Progress) draw() {
	ticker := time.NewTicker(drawEvery)
	defer ticker.Stop()
	for {
		select {
		case <-p.done:
			return
		case <-ticker.C:
			p.drawOnce()
		}
	}
}

func (p *Progress) drawOnce() {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.text == "":
		p.wipe()
	case p.live:
		p.frame++
		fmt.Fprintf(p.w, "%s%c %s", clear, `|/-\`[p.frame%4], p.text)
		p.drawn = true
	case time.Since(p.since) > quietFor && p.told != p.text:
		p.told = p.text
		fmt.Fprintln(p.w, p.text+" ...")
	}
}
