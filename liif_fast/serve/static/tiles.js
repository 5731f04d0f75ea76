// The tiles of one picture by one way of enlarging it, as OpenSeadragon asks for them: IIIF requests, also beyond 1:1.
"use strict";

const MOST_SIDE = 1000000; // pixels: beyond it float32 coordinates are no longer exact, and the server refuses
const MOST_SCALE = 256;

// info: the picture's info.json. The deepest level enlarges each pixel of the picture `scale` times.
function tileSource(info, format) {
  const { width, height } = info;
  const tile = info.tiles[0].width;
  let scale = 1;
  while (scale < MOST_SCALE && 2 * scale * Math.max(width, height) <= MOST_SIDE) scale *= 2;
  const maxLevel = Math.log2(scale) + Math.max(0, Math.ceil(Math.log2(Math.max(width, height) / tile)));
  return {
    width: width * scale,
    height: height * scale,
    tileSize: tile,
    minLevel: 0,
    maxLevel,
    getTileUrl(level, x, y) {
      const factor = scale / 2 ** (maxLevel - level); // pixels of the tile for each of the picture
      const step = tile / factor;
      const left = x * step;
      const top = y * step;
      const across = Math.min(step, width - left);
      const down = Math.min(step, height - top);
      const size = [across, down].map((side) => Math.max(1, Math.ceil(side * factor)));
      const mark = factor > 1 ? "^" : "";
      return `${info.id}/${left},${top},${across},${down}/${mark}${size}/0/default.${format}`;
    },
    picture: { width, height, scale },
  };
}
