package main

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// draw is a bar per product, condition and quantile, on a logarithmic scale from
// 1 ms to 10 s.
func draw(rows []row) string {
	const height, left, width = 22, 300, 420
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="12">`+"\n", left+width+100, height*4*len(rows)+34)
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" fill="white"/><text x="%d" y="16" fill="#555">from rename to first 200, logarithmic</text>`+"\n", left)
	y := 26
	for i, r := range rows {
		for _, bar := range []struct {
			what  string
			value time.Duration
		}{
			{"idle, p50", r.idle.quantile(0.5)},
			{"idle, p99", r.idle.quantile(0.99)},
			{"10 changes/s, p50", r.churned.quantile(0.5)},
			{"10 changes/s, p99", r.churned.quantile(0.99)},
		} {
			length := min(width, max(2, math.Log10(max(1, bar.value.Seconds()*1000))/4*width))
			fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end">%s, %s</text>`, left-8, y+13, r.name, bar.what)
			fmt.Fprintf(&b, `<rect x="%d" y="%d" width="%.0f" height="15" fill="%s"/>`, left, y+1, length, []string{"#3b7dd8", "#c9772b"}[i%2])
			fmt.Fprintf(&b, `<text x="%.0f" y="%d" fill="#333">%s</text>`+"\n", left+length+6, y+13, round(bar.value))
			y += height
		}
	}
	b.WriteString("</svg>\n")
	return b.String()
}
