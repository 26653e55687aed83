//go:build race

package main

// raceDetector multiplies what a process takes.
const raceDetector = true
