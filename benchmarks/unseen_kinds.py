"""Ways to write a sound file, for `benchmarks.unseen_files`: the commands, and what may differ in what is read.

``FIRST`` was made while the decoders were written, ``SECOND`` afterwards: other encoders' settings, containers, rates
from 4,000 to 192,000 Hz, one to eight channels, one sample to eleven seconds, piped, joined. ``THIRD`` came
last, with what neither of them has.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """A way to write a file: the command, with IN, OUT and RATE in it; its ending, rates and tolerances.

    ``slack`` counts samples that may be more, ``delay`` by how many the sound may come late, ``least`` is the least
    correlation. ``samples`` are the lengths at the rates; without them they are chosen in turn. ``times`` says how
    often the sound stands in the file, and ``cuts`` whether a cut can be known.
    """

    name: str
    ending: str
    command: str
    rates: tuple[int, ...] = (8000, 22050, 48000)
    least: float = 0.9
    slack: int = 0
    delay: int = 0
    channels: int = 1
    samples: tuple[int, ...] = ()
    times: int = 1
    cuts: bool = True

    def sounds(self) -> Iterator[tuple[int, int, int]]:
        """Rate, channels and samples of each file, 0 samples for any number."""
        for number, rate in enumerate(self.rates):
            yield rate, self.channels, self.samples[number] if self.samples else 0


FF = "ffmpeg -nostdin -loglevel error -y -i IN "
FIRST = (
    Kind("ffmpeg pcm_s24le in W64", "w64", FF + "-c:a pcm_s24le OUT", (11025, 96000), 0.999),
    Kind("ffmpeg pcm_f64le in RF64", "wav", FF + "-c:a pcm_f64le -rf64 always OUT", (12000, 44056), 0.999),
    Kind("ffmpeg pcm_u8 to a pipe", "wav", FF + "-c:a pcm_u8 -f wav - | cat > OUT", (7350, 16000), 0.99, cuts=False),
    Kind("ffmpeg pcm_s16be in AIFF to a pipe", "aiff", FF + "-f aiff - | cat > OUT", (11025, 37800), 0.999,
         cuts=False),
    Kind("ffmpeg pcm_s16be in AU to a pipe", "au", FF + "-f au - | cat > OUT", (8012, 44100), 0.999, cuts=False),
    Kind("ffmpeg pcm in CAF to a pipe", "caf", FF + "-f caf - | cat > OUT", (22050, 48000), 0.999, cuts=False),
    Kind("ffmpeg FLAC to a pipe", "flac", FF + "-f flac - | cat > OUT", (8000, 44100), 0.999),
    Kind("ffmpeg FLAC in Ogg", "oga", FF + "-c:a flac OUT", (22050, 48000), 0.999),
    Kind("ffmpeg FLAC in Matroska", "mka", FF + "-c:a flac OUT", (16000, 44100), 0.999),
    Kind("ffmpeg ALAC in M4A", "m4a", FF + "-c:a alac OUT", (11025, 48000), 0.999),
    Kind("ffmpeg ALAC in CAF", "caf", FF + "-c:a alac OUT", (16000, 44100), 0.999),
    Kind("ffmpeg AAC in M4A", "m4a", FF + "-c:a aac -b:a 128k OUT", (16000, 44100), 0.95, 2048),
    Kind("ffmpeg AAC in MP4, index first", "mp4", FF + "-c:a aac -movflags +faststart OUT", (32000,), 0.95, 2048),
    Kind("ffmpeg AAC in ADTS", "aac", FF + "-c:a aac OUT", (22050, 48000), 0.95, 3072, 2048),
    Kind("ffmpeg AAC in MPEG-TS", "ts", FF + "-c:a aac OUT", (44100,), 0.95, 3072, 2048),
    Kind("ffmpeg Opus in WebM", "webm", FF + "-c:a libopus -b:a 96k OUT", (16000, 48000), 0.95, 960),
    Kind("ffmpeg Opus in Ogg", "ogg", FF + "-c:a libopus -b:a 96k OUT", (24000, 48000), 0.95, 960),
    Kind("ffmpeg Vorbis in WebM", "webm", FF + "-c:a libvorbis OUT", (22050, 44100), 0.95, 2048),
    Kind("ffmpeg MP3 without Xing", "mp3", FF + "-c:a libmp3lame -write_xing 0 -q:a 4 OUT", (16000, 44100), 0.95, 4000,
         1700),
    Kind("ffmpeg MP3 in WAV", "wav", FF + "-c:a libmp3lame OUT", (44100,), 0.95, 4000, 1700),
    Kind("ffmpeg AC-3", "ac3", FF + "-c:a ac3 -b:a 192k OUT", (48000,), 0.9, 2048, 512),
    Kind("ffmpeg WMA 2", "wma", FF + "-c:a wmav2 OUT", (22050, 44100), 0.9, 4096),
    Kind("ffmpeg ADPCM IMA in WAV", "wav", FF + "-c:a adpcm_ima_wav OUT", (11025, 44100), 0.95, 4096),
    Kind("ffmpeg ADPCM MS in WAV", "wav", FF + "-c:a adpcm_ms OUT", (8000, 22050), 0.95, 4096),
    Kind("ffmpeg mu-law in MOV", "mov", FF + "-c:a pcm_mulaw OUT", (8000, 22050), 0.95),
    Kind("ffmpeg TTA", "tta", FF + "-c:a tta OUT", (16000, 44100), 0.999),
    Kind("sox 24 bits in AIFF", "aiff", "sox IN -b 24 OUT", (11025, 88200), 0.999),
    Kind("sox GSM in WAV", "wav", "sox IN -e gsm-full-rate OUT", (8000,), 0.6, 320),
    Kind("sox A-law in AU", "au", "sox IN -e a-law OUT", (8000, 16000), 0.95),
    Kind("sox to a piped WAV", "wav", "sox IN -t wav - | cat > OUT", (9600, 44100), 0.999, cuts=False),
    Kind("sox Vorbis", "ogg", "sox IN -C 3 OUT", (22050, 32000), 0.95),
    Kind("sox MP3, 64 kbit/s", "mp3", "sox IN -C 64 OUT", (24000, 44100), 0.9, 4000, 1700),
    Kind("sox 8 bits in SPH", "sph", "sox IN -e mu-law -b 8 OUT", (8000,), 0.95),
    Kind("sox 32 bits in CAF", "caf", "sox IN -b 32 OUT", (22050, 192000), 0.999),
    Kind("lame VBR", "mp3", "lame --quiet -V 5 IN OUT", (16000, 48000), 0.95, 1),
    Kind("lame without a tag, CBR", "mp3", "lame --quiet -t -b 96 IN OUT", (32000, 44100), 0.95, 4000, 1700),
    Kind("flac -8 of odd blocks", "flac", "flac -s -f -8 -b 1000 -o OUT IN", (12345, 44100), 0.999),
    Kind("flac in Ogg", "oga", "flac -s -f --ogg -o OUT IN", (22050, 96000), 0.999),
    Kind("flac from raw samples", "flac", "sox IN -t raw -e signed -b 16 - | flac -s -f --force-raw-format "
         "--endian=little --sign=signed --channels=1 --bps=16 --sample-rate=RATE -o OUT -", (16000, 44100), 0.999),
    Kind("oggenc q1", "ogg", "oggenc -Q -q 1 -o OUT IN", (11025, 44100), 0.9),
    # At 32 kbit/s little is left of noise of 1 kHz and more; at 64 the same files give 0.99 and more.
    Kind("opusenc 32 kbit/s", "opus", "opusenc --quiet --bitrate 32 IN OUT", (8000, 44100, 48000), 0.8, 1),
    Kind("opusenc 64 kbit/s", "opus", "opusenc --quiet --bitrate 64 IN OUT", (8000, 44100, 48000), 0.95, 1),
    Kind("wavpack", "wv", "wavpack -q -y IN -o OUT", (22050, 48000), 0.999),
)  # fmt: skip

SECOND = (
    # Lengths at the edges.
    Kind("ffmpeg WAV of one sample", "wav", FF + "OUT", (4000, 192000), samples=(1, 1)),
    Kind("flac of one sample", "flac", "flac -s -f -o OUT IN", (4000, 96000), samples=(1, 2)),
    Kind("oggenc of few samples", "ogg", "oggenc -Q -o OUT IN", (44100, 8000), samples=(1, 63), slack=1),
    Kind("opusenc of few samples", "opus", "opusenc --quiet IN OUT", (48000, 16000), samples=(1, 319), slack=1),
    Kind("lame of few samples", "mp3", "lame --quiet -b 128 IN OUT", (44100, 32000), samples=(1, 577), slack=1),
    Kind("wavpack of one sample", "wv", "wavpack -q -y IN -o OUT", (11025,), samples=(1,)),
    Kind("ffmpeg ALAC of few samples", "m4a", FF + "-c:a alac OUT", (44100, 48000), samples=(1, 4097)),
    Kind("ffmpeg ALAC in CAF of few samples", "caf", FF + "-c:a alac OUT", (44100, 22050), samples=(1, 4096)),
    Kind("ffmpeg TTA of one sample", "tta", FF + "-c:a tta OUT", (8000,), samples=(1,)),
    # FFmpeg passes over the padding of a first packet.
    Kind("ffmpeg Opus in WebM of few samples", "webm", FF + "-c:a libopus OUT", (48000,), samples=(480,), slack=480),
    # PCM in other clothes.
    Kind("ffmpeg pcm_f32be in AIFF-C", "aifc", FF + "-c:a pcm_f32be -f aiff OUT", (4000, 176400), 0.999),
    Kind("ffmpeg pcm_s24be in CAF", "caf", FF + "-c:a pcm_s24be OUT", (5512, 64000), 0.999, channels=3),
    Kind("ffmpeg pcm_s24le in Matroska", "mka", FF + "-c:a pcm_s24le OUT", (32000, 88200), 0.999, 2, channels=2),
    Kind("ffmpeg pcm_f32le in MOV", "mov", FF + "-c:a pcm_f32le OUT", (44100, 96000), 0.999, channels=6),
    Kind("ffmpeg A-law in WAV", "wav", FF + "-c:a pcm_alaw OUT", (8000, 16000), 0.95, channels=2),
    Kind("ffmpeg ADPCM Yamaha in WAV", "wav", FF + "-c:a adpcm_yamaha OUT", (22050,), 0.95, 4096),
    Kind("ffmpeg ADPCM SWF in FLV", "flv", FF + "-c:a adpcm_swf OUT", (22050, 44100), 0.95, 8192),
    Kind("ffmpeg IMA QT in MOV", "mov", FF + "-c:a adpcm_ima_qt OUT", (22050,), 0.95, 64),
    Kind("ffmpeg 8 channels in WAV", "wav", FF + "-c:a pcm_s16le OUT", (48000,), 0.999, channels=8),
    Kind("sox 8SVX", "8svx", "sox IN -b 8 OUT", (8363,), 0.99),
    Kind("sox NIST SPHERE, 16 bits", "sph", "sox IN OUT", (16000, 20000), 0.999),
    Kind("sox IRCAM", "ircam", "sox IN -t ircam OUT", (12000,), 0.999, channels=2, cuts=False),
    Kind("sox Ambisonic", "amb", "sox IN -t amb OUT", (48000,), 0.999, channels=4),
    Kind("sox VOC", "voc", "sox IN OUT", (11025, 44100), 0.99),
    Kind("sox Wave64", "w64", "sox IN OUT", (44100,), 0.999, channels=2),
    Kind("sox AU, floats", "au", "sox IN -e float OUT", (37800,), 0.999),
    Kind("sox AIFF to a pipe", "aiff", "sox IN -t aiff - | cat > OUT", (24000,), 0.999, cuts=False),
    # Lossless.
    Kind("flac -0 of 8 channels", "flac", "flac -s -f -0 --channel-map=none -o OUT IN", (48000,), 0.999, channels=8),
    Kind("flac at 192 kHz", "flac", "flac -s -f -o OUT IN", (192000,), 0.999, samples=(2_112_001,)),
    Kind("flac to a pipe", "flac", "flac -s -c IN | cat > OUT", (4000, 44100), 0.999, channels=2),
    Kind("flac in Ogg to a pipe", "oga", "flac -s --ogg -c IN | cat > OUT", (32000,), 0.999),
    Kind("flac with a picture's room", "flac", "flac -s -f -P 300000 -o OUT IN", (44100,), 0.999),
    Kind("ffmpeg FLAC in MP4", "mp4", FF + "-c:a flac -strict -2 OUT", (44100,), 0.999, 50),
    Kind("ffmpeg FLAC in segments, joined", "flac", FF + "-f segment -segment_time 1 IN.%02d.flac && "
         "cat IN.??.flac > OUT", (16000,), 0.999, cuts=False),
    Kind("ffmpeg ALAC, 6 channels", "m4a", FF + "-c:a alac OUT", (48000,), 0.999, channels=6),
    Kind("ffmpeg WavPack, floats", "wv", FF + "-c:a wavpack -sample_fmt fltp OUT", (44100, 192000), 0.999, channels=2),
    Kind("wavpack hybrid", "wv", "wavpack -q -y -b4 IN -o OUT", (44100,), 0.99, channels=2),
    Kind("wavpack to a pipe", "wv", "wavpack -q -y IN -o - | cat > OUT", (22050,), 0.999),
    Kind("ffmpeg True Audio in Matroska", "mka", FF + "-c:a tta OUT", (44100,), 0.999, 50),
    # Lossy.
    Kind("ffmpeg AAC, 5.1 in MP4", "mp4", FF + "-c:a aac -b:a 384k OUT", (48000,), 0.9, 2048, channels=6),
    Kind("ffmpeg AAC at 8 kHz in 3GP", "3gp", FF + "-c:a aac OUT", (8000,), 0.9, 2048),
    Kind("ffmpeg AAC at 96 kHz in ADTS", "aac", FF + "-c:a aac -b:a 256k OUT", (96000,), 0.9, 3072, 2048),
    Kind("ffmpeg AAC in fragments", "mp4", FF + "-c:a aac -movflags frag_keyframe+empty_moov OUT", (44100,), 0.95, 3072,
         2048),
    Kind("ffmpeg AAC in FLV", "flv", FF + "-c:a aac OUT", (44100,), 0.95, 3072, 2048),
    Kind("ffmpeg AAC in Matroska", "mka", FF + "-c:a aac OUT", (48000,), 0.95, 3072, 2048),
    Kind("ffmpeg AAC in LATM", "latm", FF + "-c:a aac -f latm OUT", (44100,), 0.95, 3072, 2048),
    Kind("ffmpeg AAC to a piped MOV", "mov", FF + "-c:a aac -f mov -movflags frag_keyframe+empty_moov - | cat > OUT",
         (44100,), 0.95, 3072, 2048),
    Kind("ffmpeg Opus, 7.1 in WebM", "webm", FF + "-c:a libopus -b:a 512k OUT", (48000,), 0.9, 960, channels=8),
    Kind("ffmpeg Opus in MP4", "mp4", FF + "-c:a libopus OUT", (48000,), 0.95, 1920, 320),
    Kind("ffmpeg Opus in MPEG-TS", "ts", FF + "-c:a libopus OUT", (48000,), 0.95, 1920, 320),
    Kind("ffmpeg live WebM to a pipe", "webm", FF + "-c:a libopus -f webm -live 1 - | cat > OUT", (24000,), 0.95, 960),
    Kind("ffmpeg Vorbis, 5.1 in Ogg", "ogg", FF + "-c:a libvorbis OUT", (44100,), 0.9, channels=6),
    Kind("ffmpeg Vorbis in Matroska", "mka", FF + "-c:a libvorbis OUT", (32000,), 0.95, 2048),
    Kind("ffmpeg MP3 in Matroska", "mka", FF + "-c:a libmp3lame OUT", (48000,), 0.95, 2400, 1700),
    Kind("ffmpeg MP3 in MP4", "mp4", FF + "-c:a libmp3lame OUT", (44100,), 0.95, 2400, 1700),
    Kind("ffmpeg MP3 in AVI", "avi", FF + "-c:a libmp3lame OUT", (44100,), 0.95, 2400, 1700),
    Kind("ffmpeg MP2 in MPEG-PS", "mpg", FF + "-c:a mp2 OUT", (48000,), 0.95, 2400, 1700, channels=2),
    Kind("ffmpeg MP2 in MPEG-TS", "ts", FF + "-c:a mp2 OUT", (32000,), 0.95, 2400, 1700),
    Kind("ffmpeg AC-3, 5.1", "ac3", FF + "-c:a ac3 -b:a 640k OUT", (48000,), 0.9, 2048, 512, channels=6),
    Kind("ffmpeg E-AC-3", "eac3", FF + "-c:a eac3 OUT", (32000,), 0.9, 2048, 512, channels=2),
    Kind("ffmpeg AC-3 in Matroska", "mka", FF + "-c:a ac3 OUT", (44100,), 0.9, 2048, 512),
    Kind("ffmpeg DTS", "dts", FF + "-c:a dca -strict -2 OUT", (48000,), 0.9, 2048, 1100, channels=2),
    Kind("ffmpeg WMA 1", "wma", FF + "-c:a wmav1 -b:a 96k OUT", (44100,), 0.9, 4096),
    Kind("ffmpeg WMA 2, stereo", "wma", FF + "-c:a wmav2 OUT", (48000,), 0.9, 4096, channels=2),
    Kind("ffmpeg Speex in Ogg", "spx", FF + "-c:a libspeex OUT", (8000,), 0.6, 400, 300),
    Kind("lame at 8 kHz", "mp3", "lame --quiet -b 64 IN OUT", (8000,), 0.9, 1),
    Kind("lame ABR, stereo", "mp3", "lame --quiet --abr 160 IN OUT", (44100,), 0.9, 1, channels=2),
    Kind("lame with ID3v2 and ID3v1", "mp3", "lame --quiet --tt name --ta who --add-id3v2 IN OUT", (44100,), 0.95, 1),
    Kind("lame to a pipe", "mp3", "lame --quiet -V 2 IN - | cat > OUT", (48000,), 0.95, 4000, 1700),
    Kind("oggenc -q 10, stereo", "ogg", "oggenc -Q -q 10 -o OUT IN", (192000,), 0.95, channels=2),
    Kind("oggenc from a pipe", "ogg", "sox IN -t wav - | oggenc -Q -o OUT -", (11025,), 0.9),
    Kind("opusenc, frames of 2.5 ms", "opus", "opusenc --quiet --framesize 2.5 --bitrate 96 IN OUT", (44100,), 0.95, 1),
    Kind("opusenc, frames of 60 ms", "opus", "opusenc --quiet --framesize 60 IN OUT", (32000,), 0.95, 1, channels=2),
    Kind("opusenc, 5.1, from a pipe", "opus", "cat IN | opusenc --quiet --bitrate 300 - OUT", (48000,), 0.9, 1,
         channels=6),
    # Joined.
    Kind("two WavPacks, joined", "wv", "wavpack -q -y IN -o IN.wv && cat IN.wv IN.wv > OUT", (22050,), 0.999, times=2),
    Kind("two AACs, joined", "aac", FF + "-c:a aac IN.aac && cat IN.aac IN.aac > OUT", (44100,), 0.4, 6144, 2048,
         times=2),
    Kind("two transport streams, joined", "ts", FF + "-c:a ac3 IN.ts && cat IN.ts IN.ts > OUT", (48000,), 0.4, 6144,
         512, times=2),
    Kind("three Opus, chained", "opus", "opusenc --quiet IN IN.o && cat IN.o IN.o IN.o > OUT", (48000,), 0.9, 3,
         times=3),
    Kind("two MP3s with a tag between, joined", "mp3", "lame --quiet --tt a --id3v2-only IN IN.m && "
         "cat IN.m IN.m > OUT", (44100,), 0.95, 2, times=2),
    Kind("two live WebMs, joined", "webm", FF + "-c:a libopus -live 1 IN.webm && cat IN.webm IN.webm > OUT", (48000,),
         0.4, 1400, 400, times=2),
)  # fmt: skip

THIRD = (
    # WAV and its kin.
    Kind("ffmpeg pcm_s32le in WAV", "wav", FF + "-c:a pcm_s32le OUT", (7919, 50000), 0.999, channels=2),
    Kind("ffmpeg pcm_f32le in WAV", "wav", FF + "-c:a pcm_f32le OUT", (22255,), 0.999, channels=5),
    Kind("ffmpeg pcm_s24le in WAV with a peak chunk", "wav", FF + "-c:a pcm_s24le -write_peak on OUT", (44100,), 0.999,
         channels=2),
    Kind("ffmpeg WAV with tags and bext", "wav", FF + "-write_bext 1 -metadata title=a -metadata description=b OUT",
         (48000,), 0.999),
    Kind("ffmpeg WAV, RF64 if needed", "wav", FF + "-rf64 auto OUT", (37000,), 0.999, channels=2),
    Kind("ffmpeg IMA ADPCM of small blocks, stereo", "wav", FF + "-c:a adpcm_ima_wav -block_size 256 OUT", (16000,),
         0.95, 1024, channels=2),
    Kind("ffmpeg G.722 in WAV", "wav", FF + "-c:a g722 OUT", (16000,), 0.8, 64, 64),
    Kind("ffmpeg G.726 in WAV", "wav", FF + "-c:a g726 OUT", (8000,), 0.8, 64),
    Kind("ffmpeg AC-3 in WAV", "wav", FF + "-c:a ac3 OUT", (48000,), 0.9, 2048, 512, channels=2),
    Kind("ffmpeg MP2 in WAV", "wav", FF + "-c:a mp2 OUT", (44100,), 0.95, 2400, 1700),
    Kind("ffmpeg WMA 2 in WAV", "wav", FF + "-c:a wmav2 OUT", (44100,), 0.9, 4096, 2048),
    Kind("sox MS ADPCM, stereo", "wav", "sox IN -e ms-adpcm OUT", (11025, 32000), 0.95, 2048, channels=2),
    Kind("sox IMA ADPCM", "wav", "sox IN -e ima-adpcm OUT", (24000,), 0.95, 2048),
    Kind("sox 8 bits in WAV", "wav", "sox IN -b 8 OUT", (6000,), 0.99),
    Kind("sox big-endian WAV", "wav", "sox IN -B OUT", (22050,), 0.999, channels=2),
    Kind("sox plain PCM in WAV (wavpcm), 24 bits", "wav", "sox IN -t wavpcm -b 24 OUT", (44100,), 0.999),
    # AIFF, AU, CAF, W64 and what workstations of old wrote.
    Kind("ffmpeg little-endian AIFF-C", "aif", FF + "-c:a pcm_s16le -f aiff OUT", (48000,), 0.999, channels=2),
    Kind("ffmpeg mu-law in AIFF-C", "aifc", FF + "-c:a pcm_mulaw -f aiff OUT", (8000,), 0.95),
    Kind("ffmpeg IMA4 in AIFF-C", "aifc", FF + "-c:a adpcm_ima_qt -f aiff OUT", (22050,), 0.95, 64, channels=2),
    Kind("ffmpeg AIFF with an ID3 tag", "aiff", FF + "-write_id3v2 1 -metadata title=a OUT", (44100,), 0.999),
    Kind("ffmpeg doubles in AU", "au", FF + "-c:a pcm_f64be OUT", (48000,), 0.999, channels=2),
    Kind("ffmpeg 24 bits in AU", "snd", FF + "-c:a pcm_s24be -f au OUT", (16000,), 0.999),
    Kind("ffmpeg A-law in CAF", "caf", FF + "-c:a pcm_alaw OUT", (8000, 11025), 0.95),
    Kind("ffmpeg little-endian floats in CAF", "caf", FF + "-c:a pcm_f32le OUT", (44100,), 0.999, channels=2),
    Kind("ffmpeg AAC in CAF", "caf", FF + "-c:a aac OUT", (44100,), 0.95, 3072, 2048),
    Kind("ffmpeg MP2 in W64", "w64", FF + "-c:a mp2 OUT", (44100,), 0.95, 2400, 1700),
    Kind("sox AVR", "avr", "sox IN OUT", (12517,), 0.999, cuts=False),
    Kind("sox Ensoniq PARIS", "paf", "sox IN OUT", (44100,), 0.999, cuts=False),
    Kind("sox Portable Voice", "pvf", "sox IN OUT", (8000,), 0.999, cuts=False),
    Kind("sox MIDI sample dump", "sds", "sox IN OUT", (22050,), 0.999, 40, cuts=False),
    Kind("sox IRCAM, floats", "sf", "sox IN -e float OUT", (44100,), 0.999, cuts=False),
    Kind("sox 8SVX, stereo", "svx", "sox IN -t 8svx -b 8 OUT", (16726,), 0.99, channels=2, cuts=False),
    Kind("sox Psion A-law in VOC", "voc", "sox IN -e a-law OUT", (8000,), 0.95),
    Kind("ffmpeg VOC", "voc", FF + "-c:a pcm_s16le OUT", (22050,), 0.99, channels=2, cuts=False),
    Kind("sox SPHERE, little-endian, stereo", "nist", "sox IN -t sph -L OUT", (8000,), 0.999, channels=2),
    Kind("sox SPHERE, A-law", "sph", "sox IN -e a-law OUT", (11025,), 0.95),
    # Lossless.
    Kind("flac of 24 bits, verified", "flac", "sox IN -b 24 IN.wav && flac -s -f -V -8 -e -p -o OUT IN.wav", (88200,),
         0.999, channels=2),
    Kind("flac, no padding, no seek table", "flac", "flac -s -f --no-padding --no-seektable -o OUT IN", (8000,), 0.999),
    Kind("flac of blocks of 16 samples", "flac", "flac -s -f --lax -b 16 -o OUT IN", (11025,), 0.999),
    Kind("flac behind an ID3 tag", "flac", "flac -s -f -o IN.flac IN && lame --quiet --tt a --id3v2-only --add-id3v2 "
         "IN IN.mp3 && head -c $((10 + $(od -An -tu1 -j9 -N1 IN.mp3) + 128 * $(od -An -tu1 -j8 -N1 IN.mp3))) IN.mp3 "
         "> OUT && cat IN.flac >> OUT", (22050,), 0.999),
    Kind("sox FLAC of 8 bits", "flac", "sox IN -b 8 -C 0 OUT", (16000,), 0.99),
    Kind("ffmpeg FLAC -12, 5.1", "flac", FF + "-c:a flac -compression_level 12 OUT", (48000,), 0.999, channels=6),
    Kind("ffmpeg FLAC in Ogg to a pipe", "ogg", FF + "-c:a flac -f ogg - | cat > OUT", (24000,), 0.999),
    Kind("two FLACs in Ogg, chained", "oga", "flac -s -f --ogg -o IN.oga IN && cat IN.oga IN.oga > OUT", (16000,),
         0.999, times=2),
    Kind("wavpack -hh -x3, 5.1", "wv", "wavpack -q -y -hh -x3 IN -o OUT", (48000,), 0.999, channels=6),
    Kind("ffmpeg WavPack in Matroska", "mka", FF + "-c:a wavpack OUT", (44100,), 0.999, 50, channels=2),
    Kind("ffmpeg True Audio, 24 bits, 3 channels", "tta", FF + "-c:a tta -sample_fmt s32 OUT", (32000,), 0.999,
         channels=3),
    Kind("ffmpeg ALAC in Matroska", "mka", FF + "-c:a alac OUT", (44100,), 0.999, 50),
    Kind("ffmpeg ALAC of 24 bits in MOV", "mov", FF + "-c:a alac -sample_fmt s32p OUT", (96000,), 0.999, channels=2),
    # MPEG audio.
    Kind("lame CBR 320, joint stereo", "mp3", "lame --quiet -b 320 -m j IN OUT", (44100,), 0.95, 1, channels=2),
    Kind("lame ABR without a tag", "mp3", "lame --quiet -t --abr 96 IN OUT", (22050, 48000), 0.9, 4000, 1700),
    Kind("lame VBR without a tag", "mp3", "lame --quiet -t -V 4 IN OUT", (24000, 44100), 0.9, 4000, 1700, channels=2),
    Kind("lame, free format", "mp3", "lame --quiet --freeformat -b 200 IN OUT", (44100,), 0.9, 4000, 1700),
    Kind("lame with checksums", "mp3", "lame --quiet -p -b 160 IN OUT", (32000,), 0.95, 1),
    # Frames of 104 bytes have no room for lame's tag.
    Kind("lame at 11 kHz, 16 kbit/s", "mp3", "lame --quiet -b 16 IN OUT", (11025,), 0.8, 4000, 1700),
    Kind("lame without the bit reservoir", "mp3", "lame --quiet --nores -b 128 IN OUT", (48000,), 0.95, 1, channels=2),
    Kind("ffmpeg MP3 with ID3v2.3 and a long title", "mp3", FF + "-c:a libmp3lame -id3v2_version 3 -write_id3v1 1 "
         "-metadata title=$(printf %03000d 7) OUT", (44100,), 0.95, 1),
    Kind("ffmpeg MP2 at 16 kHz", "mp2", FF + "-c:a mp2 -b:a 64k OUT", (16000,), 0.9, 2400, 1700),
    Kind("twolame by ffmpeg", "mp2", FF + "-c:a libtwolame OUT", (48000,), 0.95, 2400, 1700, channels=2),
    Kind("two rates of MP3, joined", "mp3", "lame --quiet -t -b 64 IN IN.m && lame --quiet -t -b 128 IN IN.n && "
         "cat IN.m IN.n > OUT", (44100,), 0.4, 8000, 1700, times=2),
    # Vorbis, Opus, Speex.
    Kind("oggenc at a bit rate, managed", "ogg", "oggenc -Q -b 64 --managed -o OUT IN", (44100,), 0.9),
    Kind("oggenc with comments, resampled", "ogg", "oggenc -Q -q 5 -c artist=a -t b -o OUT IN", (16000, 88200), 0.9,
         channels=2),
    Kind("three Vorbis, chained", "ogg", "oggenc -Q -q 6 -o IN.o IN && cat IN.o IN.o IN.o > OUT", (22050,), 0.9,
         times=3),
    # opusdec's samples correlate by 0.843 too.
    Kind("opusenc, speech, CBR, frames of 10 ms", "opus", "opusenc --quiet --speech --hard-cbr --bitrate 48 "
         "--framesize 10 IN OUT", (24000,), 0.8, 1),
    Kind("opusenc with a picture's comment and delay", "opus", "opusenc --quiet --max-delay 10 --bitrate 128 "
         "--comment a=b IN OUT", (48000,), 0.95, 1, channels=2),
    Kind("opusenc, padded pages", "opus", "opusenc --quiet --padding 60000 --discard-comments IN OUT", (16000,), 0.9,
         1),
    Kind("ffmpeg Opus, frames of 120 ms, in Ogg", "opus", FF + "-c:a libopus -frame_duration 120 -b:a 96k OUT",
         (48000,), 0.9, 5760),
    Kind("ffmpeg Opus in CAF", "caf", FF + "-c:a libopus -b:a 96k OUT", (48000,), 0.95, 960, channels=2),
    Kind("ffmpeg Opus in Matroska, stereo", "mka", FF + "-c:a libopus -b:a 128k OUT", (12000,), 0.9, 960, channels=2),
    Kind("ffmpeg Vorbis beside Theora's colours", "ogv", FF + "-f lavfi -i color=red:s=64x64:r=5 -shortest -c:v "
         "libtheora -c:a libvorbis OUT", (44100,), 0.9, 9000),
    Kind("ffmpeg Speex, wide band, stereo", "spx", FF + "-c:a libspeex OUT", (16000,), 0.6, 700, 600, channels=2),
    # AAC, films and other containers.
    Kind("ffmpeg AAC in M4B with chapters' brand", "m4b", FF + "-c:a aac -f ipod OUT", (22050,), 0.95, 2048),
    Kind("ffmpeg AAC in M4R, stereo", "m4r", FF + "-c:a aac -b:a 192k -f ipod OUT", (48000,), 0.95, 2048, channels=2),
    Kind("ffmpeg AAC in 3G2", "3g2", FF + "-c:a aac OUT", (16000,), 0.95, 2048),
    Kind("ffmpeg AAC in fragments of half a second", "m4a", FF + "-c:a aac -f mp4 -frag_duration 500000 OUT", (48000,),
         0.95, 3072, 2048),
    Kind("ffmpeg AAC in MP4 with an edit list before", "mp4", FF + "-c:a aac -use_editlist 0 OUT", (32000,), 0.95, 3072,
         2048),
    Kind("ffmpeg AAC beside pictures in MP4", "m4v", FF + "-f lavfi -i color=blue:s=64x64:r=5 -shortest -c:v mpeg4 "
         "-c:a aac -f mp4 OUT", (44100,), 0.9, 12000),
    Kind("ffmpeg AAC in MPEG-TS of 192 bytes", "m2ts", FF + "-c:a aac -mpegts_m2ts_mode 1 OUT", (48000,), 0.95, 3072,
         2048),
    Kind("ffmpeg ADTS behind an ID3 tag", "aac", FF + "-c:a aac -write_id3v2 1 -metadata title=a -f adts OUT", (24000,),
         0.95, 3072, 2048),
    Kind("ffmpeg AC-3 in MPEG-PS", "vob", FF + "-c:a ac3 -b:a 256k -f vob OUT", (48000,), 0.9, 2048, 512, channels=2),
    Kind("ffmpeg AC-3 in MP4", "mp4", FF + "-c:a ac3 OUT", (44100,), 0.9, 2048, 512),
    Kind("ffmpeg E-AC-3 in MPEG-TS", "ts", FF + "-c:a eac3 OUT", (48000,), 0.9, 2048, 512, channels=6),
    Kind("ffmpeg PCM in AVI", "avi", FF + "-c:a pcm_s16le OUT", (32000,), 0.999, 2, channels=2),
    Kind("ffmpeg WMA beside pictures", "wmv", FF + "-f lavfi -i color=green:s=64x64:r=5 -shortest -c:v wmv2 -c:a wmav2 "
         "OUT", (44100,), 0.9, 12000, 2048),
    Kind("ffmpeg AC-3 in RealMedia", "rm", FF + "-c:a ac3 OUT", (44100,), 0.9, 4096, 512),
    Kind("ffmpeg MP3 in FLV", "flv", FF + "-c:a libmp3lame OUT", (22050,), 0.95, 2400, 1700, channels=2),
    Kind("ffmpeg DTS, 5.1, in Matroska", "mka", FF + "-c:a dca -strict -2 OUT", (48000,), 0.9, 2048, 1100, channels=6),
    Kind("ffmpeg PCM in MPEG-PS", "vob", FF + "-c:a pcm_dvd -f vob OUT", (48000,), 0.999, 4096, channels=2),
    Kind("ffmpeg AIFF's bytes in a MOV of old", "mov", FF + "-c:a pcm_s16be OUT", (22254,), 0.999),
)  # fmt: skip
