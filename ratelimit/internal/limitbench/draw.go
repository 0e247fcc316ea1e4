package main

import (
	"fmt"
	"html"
	"strings"
)

// bar is a row of the picture.
type bar struct {
	name          string
	server, redis float64 // µs a call
}

// draw shows what a call takes of each server and of Redis, and where mark, which is
// in µs, lies; 0 marks nothing.
func draw(bars []bar, mark float64, what string) string {
	const row, left, width, top = 24, 320, 420, 40
	longest := 1.0
	for _, b := range bars {
		longest = max(longest, b.server+b.redis)
	}
	across := func(us float64) float64 { return us / longest * width }
	height := top + row*len(bars) + 12
	b := &strings.Builder{}
	fmt.Fprintf(b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="12">`+"\n", left+width+80, height)
	fmt.Fprintf(b, `<rect width="100%%" height="100%%" fill="white"/><text x="%d" y="16" fill="#555">µs of CPU per call, %d in flight: <tspan fill="#3b7dd8">server</tspan> and <tspan fill="#c9772b">Redis</tspan></text>`+"\n", left, inFlight)
	if mark > 0 {
		at := left + across(mark)
		fmt.Fprintf(b, `<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="#555" stroke-dasharray="3 3"/><text x="%.1f" y="%d" fill="#555">%s</text>`+"\n",
			at, top-6, at, height-4, at+4, top-8, html.EscapeString(what))
	}
	for i, each := range bars {
		y, server, redis := top+i*row, across(each.server), across(each.redis)
		fmt.Fprintf(b, `<text x="%d" y="%d" text-anchor="end">%s</text>`, left-8, y+13, html.EscapeString(strings.ReplaceAll(each.name, "`", "")))
		fmt.Fprintf(b, `<rect x="%d" y="%d" width="%.1f" height="16" fill="#3b7dd8"/>`, left, y, server)
		if redis > 0 {
			fmt.Fprintf(b, `<rect x="%.1f" y="%d" width="%.1f" height="16" fill="#c9772b"/>`, left+server, y, redis)
		}
		fmt.Fprintf(b, `<text x="%.1f" y="%d" fill="#333" stroke="white" stroke-width="3" paint-order="stroke">%.1f</text>`+"\n", left+server+redis+6, y+13, each.server+each.redis)
	}
	b.WriteString("</svg>\n")
	return b.String()
}
