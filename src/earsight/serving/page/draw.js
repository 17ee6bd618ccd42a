// Canvases: the waveform, and the spectrogram with what speaks for an answer laid over it.

// Dark to bright through one run of hues, even in lightness.
const STOPS = [[0, 0, 4], [40, 11, 84], [101, 21, 110], [159, 42, 99], [212, 72, 66], [245, 125, 21], [250, 193, 39], [252, 255, 164]];

const MAP = Array.from({ length: 256 }, (_, level) => {
  const place = (level / 255) * (STOPS.length - 1);
  const left = Math.min(Math.floor(place), STOPS.length - 2);
  return STOPS[left].map((value, i) => Math.round(value + (STOPS[left + 1][i] - value) * (place - left)));
});

export function drawWave(canvas, outline) {
  const { context, width, height } = fitted(canvas);
  context.clearRect(0, 0, width, height);
  context.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--accent");
  const peak = Math.max(1e-6, ...outline.high, ...outline.low.map((value) => -value));
  const count = outline.high.length;
  const middle = height / 2;
  const scale = (0.46 * height) / peak;
  for (let x = 0; x < width; x += 1) {
    const from = Math.floor((x * count) / width);
    const to = Math.max(from + 1, Math.floor(((x + 1) * count) / width));
    const high = Math.max(...outline.high.slice(from, to));
    const low = Math.min(...outline.low.slice(from, to));
    context.fillRect(x, middle - high * scale, 1, Math.max(1, (high - low) * scale));
  }
}

// `channel` is a number, or "all": the three as red, green and blue. `attribution` has levels from -127 to 127, or is null.
export function drawSpectrogram(canvas, spectrogram, channel, attribution) {
  const { rows, columns } = spectrogram;
  const image = new ImageData(columns, rows);
  const size = rows * columns;
  const windows = spectrogram.levels.length / size;
  const level = (window, cell) => spectrogram.levels[Math.min(window, windows - 1) * size + cell];
  for (let row = 0; row < rows; row += 1) {
    for (let column = 0; column < columns; column += 1) {
      const cell = row * columns + column;
      const at = 4 * ((rows - 1 - row) * columns + column); // the lowest band is drawn at the bottom
      let color = channel === "all" ? [level(0, cell), level(1, cell), level(2, cell)] : MAP[level(Number(channel), cell)];
      if (attribution) {
        const grey = 0.62 * (channel === "all" ? (color[0] + color[1] + color[2]) / 3 : level(Number(channel), cell));
        const value = attribution[cell] / 127;
        const share = Math.min(1, Math.sqrt(Math.abs(value)) * 1.15);
        const over = value >= 0 ? [255, 159, 28] : [63, 167, 255];
        color = over.map((part) => grey + (part - grey) * share);
      }
      image.data.set([color[0], color[1], color[2], 255], at);
    }
  }
  canvas.width = columns;
  canvas.height = rows;
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function fitted(canvas) {
  const scale = Math.min(2, window.devicePixelRatio || 1);
  const width = Math.max(1, Math.round(canvas.clientWidth * scale));
  const height = Math.max(1, Math.round(canvas.clientHeight * scale));
  canvas.width = width;
  canvas.height = height;
  return { context: canvas.getContext("2d"), width, height };
}
