#!/bin/sh
# The README's picture, in a folder where runs/last is of `semagram-train task=pendulum-swingup steps=40000`.
set -e
for goal in 'stand:pole_vertical > 0.95' 'hang:pole_vertical < -0.95, angular_velocity = 0 +- 0.3' \
    'left:angular_velocity < -2' 'right:angular_velocity > 2'; do
  semagram-guide checkpoint=runs/last out=goals/${goal%%:*} want="${goal#*:}"
  semagram-eval checkpoint=runs/last guidance=goals/${goal%%:*} video=true hydra.run.dir=goals/${goal%%:*}-film
done
ffmpeg=$(python -c 'import imageio_ffmpeg; print(imageio_ffmpeg.get_ffmpeg_exe())')
$ffmpeg $(printf -- '-t 6 -i goals/%s-film/rollout.mp4 ' stand hang left right) -filter_complex '
  [0]crop=560:256:0:0[a];[1]crop=560:256:0:0[b];[2]crop=560:256:0:0[c];[3]crop=560:256:0:0[d];[a][b][c][d]xstack=grid=2x2,
  fps=10,scale=840:-1:flags=area,split[e][f];[e]palettegen=48[p];[f][p]paletteuse=dither=none' four-goals.gif
